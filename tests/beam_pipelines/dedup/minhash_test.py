"""MinHash: the S-curve, golden signatures, and one page a cluster."""

import collections
import random

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability import fn_api_runner
from apache_beam.testing import util

from beam_pipelines.dedup import components, minhash
from mlm.text import normalize

FINEWEB2 = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)


def test_golden_signature():
  """Of datatrove 0.10.1, MinhashConfig(), words split at spaces."""
  text = "Ньютон 1687 жылы — «Principia» кітабын, 3 томдық; ЕҢБЕК! ਕਿਤਾਬ १२.५"
  simple = normalize.simplify(f"{text} über façade.")
  assert simple == (
    "ньютон 0 жылы principia кітабын 0 томдық еңбек ਕਿਤਾਬ 0 uber facade"
  )
  signature = minhash.signature(minhash.shingles(simple.split(), 5), FINEWEB2)
  assert signature[0, :2].tolist() == [521146422068335201, 123638099524316039]
  assert signature[13, -2:].tolist() == [239409222976206976, 63054789673167330]


def test_signature_is_the_smallest_of_exact_integers():
  """Python integers of any size as reference: (a x + b) mod 2^64 mod p."""
  rng = np.random.default_rng(0)
  values = rng.integers(0, 1 << 64, 1300, np.uint64)
  values[:3] = [0, (1 << 64) - 1, (1 << 61) - 1]
  a, b = minhash._permutations(FINEWEB2)
  prime = (1 << 61) - 1
  expected = [
    min((int(x) * int(m) + int(s)) % (1 << 64) % prime for x in values)
    for m, s in zip(a[:, 0], b[:, 0])
  ]
  assert minhash.signature(values, FINEWEB2).ravel().tolist() == expected


def test_shingles_are_a_set_of_word_ngrams():
  words = "один два три один два три".split()
  assert len(minhash.shingles(words, 3)) == 3
  assert len(minhash.shingles(words, 6)) == 1
  assert len(minhash.shingles(words, 7)) == 0


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_pairs_meet_as_often_as_the_s_curve_says(similarity):
  rng = np.random.default_rng(round(100 * similarity))
  config = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)
  trials, size, met = 400, 500, 0
  # |A ∩ B| / |A ∪ B| = common / (2 size - common)
  common = round(2 * size * similarity / (1 + similarity))
  exact = common / (2 * size - common)
  for _ in range(trials):
    values = rng.integers(0, 1 << 64, 2 * size - common, np.uint64)
    a, b = values[:size], values[size - common :]
    keys = [minhash.bucket_keys(minhash.signature(x, config)) for x in (a, b)]
    met += any(x == y for x, y in zip(*keys))
  expected = 1 - (1 - exact**8) ** 14
  error = np.sqrt(expected * (1 - expected) / trials)
  assert abs(met / trials - expected) < 4 * error + 1e-3


@pytest.mark.parametrize("num_parts", [1, 3])
def test_near_duplicates_by_language_and_one_of_each_cluster_stays(num_parts):
  rng = random.Random(0)
  letters = {"swh_Latn": "abdefghik", "amh_Ethi": "ሀለመሰረበተነአ"}
  vocabulary = {
    code: ["".join(rng.choices(of, k=5)) for _ in range(400)]
    for code, of in letters.items()
  }
  pages, truth = [], {}
  for code, words in vocabulary.items():
    for cluster in range(4):
      text = [rng.choice(words) for _ in range(300)]
      for copy in range(1 + cluster):
        copied = list(text)
        if copy:
          copied[rng.randrange(300)] = "x"  # 5 of 296 shingles change
        page_id = f"{rng.randrange(10**6):06d}.{len(pages)}"
        pages.append(
          {"id": page_id, "language": code, "text": " ".join(copied)}
        )
        truth[page_id] = (code, cluster)
  # The same text in another language is no copy.
  pages.append({**pages[0], "id": "x", "language": "sot_Latn"})
  truth["x"] = ("sot_Latn", 0)
  with beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline:
    created = pipeline | beam.Create(pages)
    pairs = minhash.similar_pairs(created, FINEWEB2, num_parts=num_parts)
    stars = components.turn(pairs, "turn")
    kept, dropped = minhash.keep_one_a_cluster(created, stars)
    members = collections.defaultdict(list)
    for page_id, cluster in truth.items():
      members[cluster].append(page_id)
    util.assert_that(
      kept | "ids" >> beam.Map(lambda p: (p["id"], p["cluster_size"])),
      util.equal_to([(min(ids), len(ids)) for ids in members.values()]),
    )
    util.assert_that(
      dropped | "drops" >> beam.Map(lambda p: (p["id"], p["drop"])),
      util.equal_to(
        [
          (page_id, ["minhash", "near_duplicate"])
          for ids in members.values()
          for page_id in ids
          if page_id != min(ids)
        ]
      ),
      label="dropped",
    )
