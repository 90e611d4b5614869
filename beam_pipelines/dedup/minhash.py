"""MinHash signatures and their buckets.

Two pages whose sets of word n-grams have Jaccard similarity s share a bucket
with probability 1 - (1 - s^h)^b for b buckets of h hashes: FineWeb2's b = 14,
h = 8 give 0.5 at s = 0.72 and 0.92 at 0.8.

Sources: Broder 1997; Penedo et al. 2025 (FineWeb2), section 3.3; constants and
arithmetic are those of datatrove 0.10, so signatures are equal bit for bit.
"""

import dataclasses
import functools
from collections.abc import Sequence

import apache_beam as beam
import numpy as np
import xxhash
from apache_beam.metrics import Metrics

from beam_pipelines import words
from beam_pipelines.dedup import smallest
from mlm.text import normalize

STAGE = "minhash"

_PRIME = np.uint64((1 << 61) - 1)
_BLOCK = 512  # shingles hashed at a time, to stay in the cache


@dataclasses.dataclass(frozen=True)
class Config:
  """What decides which pages meet in a bucket."""

  ngram: int  # words a shingle
  buckets: int
  hashes: int  # a bucket
  seed: int


@functools.cache
def _permutations(config: Config) -> tuple[np.ndarray, np.ndarray]:
  """Multipliers and summands [buckets * hashes, 1] of the hash functions."""
  random = np.random.RandomState(config.seed)
  size = (config.buckets * config.hashes, 1)
  return (
    random.randint(1, _PRIME, dtype=np.uint64, size=size),
    random.randint(0, _PRIME, dtype=np.uint64, size=size),
  )


def shingles(tokens: Sequence[str], ngram: int) -> np.ndarray:
  """64-bit hashes of the distinct word n-grams, uint64 [n].

  Args:
    tokens: words of the text after `mlm.text.normalize.simplify`.
    ngram: words a shingle; a shorter text has none.
  """
  grams = {
    " ".join(tokens[i : i + ngram]).encode()
    for i in range(len(tokens) - ngram + 1)
  }
  return np.fromiter(map(xxhash.xxh64_intdigest, grams), np.uint64, len(grams))


def signature(shingles: np.ndarray, config: Config) -> np.ndarray:
  """Smallest value of each hash function, uint64 [buckets, hashes].

  (a · x + b) mod 2^64 mod 2^61 - 1, as datatrove's arithmetic has it.

  Args:
    shingles: uint64 [n], n at least 1.
    config: of the hash functions.
  """
  multipliers, summands = _permutations(config)
  smallest = np.full(len(multipliers), _PRIME)
  for start in range(0, len(shingles), _BLOCK):
    values = multipliers * shingles[start : start + _BLOCK]
    values += summands
    # x mod 2^61 - 1 without a division: the high bits added to the low ones
    # leave at most the modulus and 7.
    high = values >> np.uint64(61)
    values &= _PRIME
    values += high
    np.minimum(values, values - _PRIME, out=values)
    np.minimum(smallest, values.min(axis=1), out=smallest)
  return smallest.reshape(config.buckets, config.hashes)


def bucket_keys(signature: np.ndarray) -> list[bytes]:
  """One key a bucket: its number and 128 bits of its part of the signature."""
  return [
    bytes([number]) + xxhash.xxh3_128_digest(part.tobytes())
    for number, part in enumerate(signature.astype("<u8"))
  ]


def keys_of_text(text: str, code: str, config: Config) -> list[bytes]:
  """Bucket keys of a text; none if it is shorter than a shingle."""
  found = shingles(words.words(normalize.simplify(text), code), config.ngram)
  return bucket_keys(signature(found, config)) if len(found) else []


def _keyed(page, config):
  for key in keys_of_text(page["text"], page["language"], config):
    yield (page["language"], key), page["id"]


def similar_pairs(pages, config: Config, *, num_parts: int):
  """Pages -> distinct pairs of ids that connect the pages of every bucket.

  Args:
    pages: PCollection.
    config: of the signatures.
    num_parts: of a bucket's pages (`smallest.losers`).
  """
  keyed = pages | "buckets" >> beam.FlatMap(_keyed, config)
  return (
    smallest.losers(keyed, "bucket", num_parts=num_parts)
    | "pairs" >> beam.MapTuple(lambda key, smaller, larger: (smaller, larger))
    | "distinct pairs" >> beam.Distinct()
  )


def _keep_smallest(element):
  """The page of each cluster with the smallest id, and the size of it."""
  page_id, joined = element
  (page,) = joined["pages"]
  roots, sizes = list(joined["roots"]), list(joined["sizes"])
  page = {**page, "cluster_size": sizes[0] if sizes else 1}
  if roots:
    Metrics.counter(STAGE, "near_duplicate").inc()
    yield beam.pvalue.TaggedOutput(
      "dropped", {**page, "drop": [STAGE, "near_duplicate"]}
    )
  else:
    yield page


def keep_one_a_cluster(pages, stars):
  """(pages, edges that are stars) -> (one page a cluster, the others).

  The page with the smallest id stays, with the number of pages of its cluster
  as cluster_size.
  """
  leaves = stars | "leaves" >> beam.Map(lambda edge: (edge[1], edge[0]))
  sizes = (
    stars
    | "centres" >> beam.Map(lambda edge: (edge[0], 1))
    | "count leaves" >> beam.CombinePerKey(sum)
    | "cluster sizes" >> beam.MapTuple(lambda page_id, n: (page_id, n + 1))
  )
  by_id = pages | "pages by id" >> beam.Map(lambda page: (page["id"], page))
  outputs = (
    {"pages": by_id, "roots": leaves, "sizes": sizes}
    | "join clusters" >> beam.CoGroupByKey()
    | STAGE >> beam.FlatMap(_keep_smallest).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped
