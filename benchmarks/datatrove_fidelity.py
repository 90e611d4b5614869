"""Our FineWeb2 filters and MinHash against datatrove's, decision by decision.

    python -m benchmarks.datatrove_fidelity CORPUS

CORPUS is a finished corpus directory. Runs where datatrove is installed with
its processing extras (and an xxhash below 4, which it needs) beside icu4py,
regex and numpy. Both sides get the same words. Prints what differs.
"""

import collections
import random
import sys
import tempfile
import time

import numpy as np
from datatrove import data
from datatrove.pipeline.dedup import minhash as peer_minhash
from datatrove.pipeline.filters import (
  fineweb_quality_filter,
  gopher_quality_filter,
  gopher_repetition_filter,
)
from datatrove.utils import text as peer_text

from beam_pipelines import words
from beam_pipelines.dedup import minhash
from beam_pipelines.filters import quality
from mlm.text import documents, normalize

PAGES_A_LANGUAGE = 60
SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PAIRS = 1000
STOP_WORDS = [
  "the",
  "be",
  "to",
  "of",
  "and",
  "de",
  "la",
  "и",
  "na",
  "的",
  "です",
]
# datatrove's defaults, in its order.
REPETITION = {
  "duplicate_paragraphs": {"max": 0.3},
  "duplicate_paragraph_characters": {"max": 0.2},
  "duplicate_lines": {"max": 0.3},
  "duplicate_line_characters": {"max": 0.2},
  "top_2_gram": {"max": 0.2},
  "top_3_gram": {"max": 0.18},
  "top_4_gram": {"max": 0.16},
  **{f"duplicate_{n}_grams": {"max": 0.2 - n / 100} for n in range(5, 11)},
}
QUALITY = {
  "words": {"min": 50, "max": 100_000},
  "mean_word_length": {"min": 3, "max": 10},
  "hashes": {"max": 0.1},
  "ellipses": {"max": 0.1},
  "bullet_lines": {"max": 0.9},
  "ellipsis_lines": {"max": 0.3},
  "alphabetic_words": {"min": 0.8},
  "stop_words": {"min": 2},
}
FINEWEB = {
  "sentence_lines": {"min": 0.12},
  "short_lines": {"max": 0.67},
  "duplicate_line_characters": {"max": 0.01},
  "line_breaks": {"max": 0.3},
}


def _texts(corpus: str) -> list[str]:
  """Pages of every language, and random texts that repeat themselves."""
  texts = []
  for code in documents.read_counts(corpus)["languages"]:
    pages = documents.read_documents(corpus, code, "train")
    texts += [page.text for _, page in zip(range(PAGES_A_LANGUAGE), pages)]
  rng = random.Random(0)
  pieces = ["a", "bb", "the", "of", "...", "-x", "#", "و", "،", "1.", "中"]
  gaps = [" ", " ", " ", "\n", ". ", "\n\n"]
  for _ in range(400):
    some = rng.choices(pieces, k=rng.randint(1, 12))
    texts.append(
      "".join(
        rng.choice(some) + rng.choice(gaps) for _ in range(rng.randint(1, 200))
      )
    )
  return texts


def compare_filters(texts: list[str]) -> None:
  split = {text: words.words(text, "und") for text in texts}
  peers = {
    "gopher_repetition": (
      gopher_repetition_filter.GopherRepetitionFilter(),
      lambda t: quality.outside(
        quality.gopher_repetition(t, split[t]), REPETITION
      ),
    ),
    "gopher_quality": (
      gopher_quality_filter.GopherQualityFilter(stop_words=STOP_WORDS),
      lambda t: quality.outside(
        quality.gopher_quality(t, split[t], STOP_WORDS), QUALITY
      ),
    ),
    "fineweb_quality": (
      fineweb_quality_filter.FineWebQualityFilter(),
      lambda t: quality.outside(quality.fineweb_quality(t, split[t]), FINEWEB),
    ),
  }
  for module in (
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
  ):
    module.split_into_words = lambda text, language: split[text]
  print(f"{len(texts):,} texts")
  for name, (peer, ours) in peers.items():
    started = time.perf_counter()
    theirs = [peer.filter(data.Document(text=t, id="")) for t in texts]
    between = time.perf_counter()
    found = [ours(t) for t in texts]
    ended = time.perf_counter()
    reasons = collections.Counter(
      ("kept" if a is True else a[1], b or "kept")
      for a, b in zip(theirs, found)
    )
    differ = sum((a is True) != (b is None) for a, b in zip(theirs, found))
    print(
      f"{name}: {differ} decisions differ; datatrove {between - started:.2f} s, "
      f"ours {ended - between:.2f} s"
    )
    for (a, b), number in reasons.most_common():
      print(f"  {number:>6,}  {a:<28} {b}")


def compare_signatures(texts: list[str]) -> None:
  config = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)
  peer = peer_minhash.MinhashDedupSignature(tempfile.mkdtemp())
  peer.word_tokenizer.word_tokenize = str.split
  equal = 0
  for text in texts:
    simple = normalize.simplify(text)
    shingles = minhash.shingles(simple.split(), config.ngram)
    theirs = peer.get_shingles(text)
    equal += simple == peer_text.simplify_text(text) and (
      not len(shingles)
      if not theirs.size
      else np.array_equal(
        np.array(peer.get_signature(theirs), np.uint64),
        minhash.signature(shingles, config),
      )
    )
  print(f"signatures equal: {equal:,} of {len(texts):,}")


def compare_planted() -> None:
  """Pairs of a known Jaccard similarity: how many share a bucket."""
  config = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)
  peer = peer_minhash.MinhashDedupSignature(tempfile.mkdtemp())
  rng = np.random.default_rng(0)
  print(f"{'Jaccard':>8}{'S-curve':>9}{'ours':>8}{'datatrove':>11}{'error':>8}")
  for wanted in SIMILARITIES:
    size = 400
    common = round(2 * size * wanted / (1 + wanted))
    exact = common / (2 * size - common)
    met = np.zeros(2)
    for _ in range(PAIRS):
      values = rng.integers(0, 1 << 63, 2 * size - common).astype(np.uint64)
      pair = values[:size], values[size - common :]
      ours = [minhash.signature(v, config) for v in pair]
      theirs = [np.array(peer.get_signature(v[:, None])) for v in pair]
      for side, (a, b) in enumerate((ours, theirs)):
        met[side] += (a == b).all(axis=1).any()
    expected = 1 - (1 - exact**8) ** 14
    error = np.sqrt(expected * (1 - expected) / PAIRS)
    print(
      f"{exact:>8.3f}{expected:>9.3f}{met[0] / PAIRS:>8.3f}"
      f"{met[1] / PAIRS:>11.3f}{error:>8.3f}"
    )


if __name__ == "__main__":
  TEXTS = _texts(sys.argv[1])
  compare_filters(TEXTS)
  compare_signatures(TEXTS)
  compare_planted()
