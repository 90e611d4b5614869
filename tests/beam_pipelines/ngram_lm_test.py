"""Kneser-Ney by its formulas in plain Python, and that it sums to one."""

import collections
import pathlib
import re

import numpy as np
import pytest

from beam_pipelines import ngram_lm

SOURCES = pathlib.Path(__file__).parents[1] / "testdata/crawl/sources"
TEXTS = ["banana", "ананас", "バナナ", "banan", "กล้วย", "ban ana"]
END = "\U0010ffff"


def _reference(texts, discount=0.75):
  """p(c | a b) of Chen & Goodman's section 2.7, with dictionaries."""
  trigrams = collections.Counter()
  for text in texts:
    padded = END * 2 + text + END
    trigrams.update(padded[i : i + 3] for i in range(len(text) + 1))
  bigrams = collections.Counter(t[1:] for t in trigrams)
  unigrams = collections.Counter(b[1:] for b in bigrams)

  def level(counts, gram, lower):
    of_context = {g: n for g, n in counts.items() if g[:-1] == gram[:-1]}
    total = sum(of_context.values())
    if not total:
      return lower
    own = max(counts[gram] - discount, 0) / total if counts[gram] else 0
    return own + discount * len(of_context) / total * lower

  def probability(gram):
    p = 1 / (len(unigrams) + 1)
    for n, counts in ((1, unigrams), (2, bigrams), (3, trigrams)):
      p = level(counts, gram[-n:], p)
    return p

  return probability


def _key(gram):
  return ord(gram[0]) << 42 | ord(gram[1]) << 21 | ord(gram[2])


def test_probabilities_are_those_of_the_formulas():
  model = ngram_lm.train(ngram_lm.count_trigrams(TEXTS))
  reference = _reference(TEXTS)
  characters = sorted(set("".join(TEXTS)) | {END, "z", "語"})
  grams = [
    a + b + c for a in characters for b in characters for c in "anザน " + END
  ]
  found = model.log2_probabilities(
    np.array([_key(g) for g in grams], np.uint64)
  )
  expected = np.log2([reference(g) for g in grams])
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_probabilities_sum_to_one_in_every_context():
  model = ngram_lm.train(ngram_lm.count_trigrams(TEXTS))
  seen = sorted(set("".join(TEXTS)) | {END})
  for context in ("ba", "ан", END * 2, "zz", "n" + "ナ"):
    keys = [_key(context + c) for c in [*seen, "ж"]]  # all, and one unseen
    logs = model.log2_probabilities(np.array(keys, np.uint64))
    assert (2**logs).sum() == pytest.approx(1)


def test_a_text_has_an_event_for_each_character_and_its_end():
  trigrams = ngram_lm.count_trigrams([*TEXTS, ""])
  assert trigrams.counts.sum() == sum(len(t) + 1 for t in TEXTS)
  assert (np.diff(trigrams.keys.astype(np.int64)) > 0).all()


def test_nothing_to_train_on():
  with pytest.raises(ValueError, match="no text"):
    ngram_lm.train(ngram_lm.count_trigrams([]))


@pytest.fixture(scope="module")
def halves():
  """The two halves of each language of the sample crawl."""
  result = {}
  for folder in sorted(SOURCES.iterdir()):
    texts = [
      text
      for path in sorted(folder.glob("*.html"))
      for text in re.findall("<p>(.*)</p>", path.read_text(encoding="utf-8"))
    ]
    result[folder.name] = (texts[::2], texts[1::2])
  return result


def test_the_nearest_model_of_a_language_is_its_own(halves):
  counts = {
    code: [ngram_lm.count_trigrams(half) for half in of_code]
    for code, of_code in halves.items()
  }
  models = {code: ngram_lm.train(first) for code, (first, _) in counts.items()}
  for code, (_, second) in counts.items():
    found = {other: m.perplexity(second) for other, m in models.items()}
    assert min(found, key=found.get) == code
    assert 2 < found[code] < 300
  a, b = "rus_Cyrl", "ukr_Cyrl"
  one = ngram_lm.divergence(models[a], counts[a][0], models[b], counts[b][0])
  other = ngram_lm.divergence(models[b], counts[b][0], models[a], counts[a][0])
  far = ngram_lm.divergence(
    models[a], counts[a][0], models["tha_Thai"], counts["tha_Thai"][0]
  )
  assert one == other < far
