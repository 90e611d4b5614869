"""Quality measures: worked examples, and a literal recount of random text."""

import collections
import random

import pytest

from beam_pipelines.filters import quality


def test_repetition_of_a_worked_example():
  text = "ka\nka\nro\n\nka\nro"  # 15 characters, lines ka ka ro ka ro
  measures = quality.gopher_repetition(text, text.split())
  assert measures["duplicate_lines"] == 3 / 5
  assert measures["duplicate_line_characters"] == 6 / 15
  assert measures["duplicate_paragraphs"] == 0
  # "ka ro" twice, five characters each; no trigram twice: the first counts.
  assert measures["top_2_gram"] == 10 / 15
  assert measures["top_3_gram"] == len("ka ka ro") / 15
  assert measures["duplicate_5_grams"] == 0
  assert "duplicate_6_grams" not in measures  # five words


def test_duplicate_ngrams_do_not_overlap():
  words = ["გ"] * 16
  text = " ".join(words)
  # Seen at 0; hits at 1 and 6 jump five words; 11 is the last start: a hit.
  assert quality.gopher_repetition(text, words)["duplicate_5_grams"] == (
    15 / len(text)
  )


def _recount(text, words):
  """The published definitions, one loop a measure."""
  result = {}
  for n in quality.TOP_NGRAMS:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if grams:
      gram, count = collections.Counter(grams).most_common(1)[0]
      result[f"top_{n}_gram"] = len(gram) * count / len(text)
  for n in quality.DUPLICATE_NGRAMS:
    if len(words) < n:
      continue
    seen, i, characters = set(), 0, 0
    while i <= len(words) - n:
      gram = tuple(words[i : i + n])
      if gram in seen:
        characters += len("".join(gram))
        i += n
      else:
        seen.add(gram)
        i += 1
    result[f"duplicate_{n}_grams"] = characters / len(text)
  return result


@pytest.mark.parametrize("seed", range(40))
def test_ngrams_agree_with_a_literal_recount(seed):
  rng = random.Random(seed)
  vocabulary = "the של और ที่ the. 中文 ዓለም б ქ".split()[: rng.randint(1, 9)]
  words = [rng.choice(vocabulary) for _ in range(rng.randint(1, 120))]
  text = "".join(word + rng.choice([" ", "\n", ""]) for word in words)
  measures = quality.gopher_repetition(text, words)
  expected = _recount(text, words)
  assert {k: v for k, v in measures.items() if "gram" in k} == expected


def test_quality_of_a_worked_example():
  text = "- Das ist # gut ...\n• und 12 Uhr ?\nمرحبا…\n"
  words = "- Das ist # gut ... • und 12 Uhr ? مرحبا …".split()
  measures = quality.gopher_quality(text, words, ["ist", "und", "ou"])
  # Punctuation: - # ... ? … ; the bullet • is not in the published set.
  assert measures["words"] == 8
  assert measures["mean_word_length"] == (3 + 3 + 3 + 1 + 3 + 2 + 3 + 5) / 8
  assert measures["hashes"] == 1 / 13
  assert measures["ellipses"] == 2 / 13
  assert measures["bullet_lines"] == 2 / 3
  assert measures["ellipsis_lines"] == 2 / 3
  assert measures["alphabetic_words"] == 6 / 13
  assert measures["stop_words"] == 2


@pytest.mark.parametrize("end", list(".?!。！？։።।॥؟۔។៖၊‼"))
def test_sentences_end_in_any_script(end):
  text = f"line {end}\nline\n\nline,\nline{end}"
  measures = quality.fineweb_quality(text, text.split())
  assert measures["sentence_lines"] == 2 / 4
  assert measures["line_breaks"] == 4 / len(text.split())


def test_lines_of_a_worked_example():
  text = "ស" * 31 + "\n" + "ស" * 30 + "\n" + "ស" * 31
  measures = quality.fineweb_quality(text, ["ស"])
  assert measures["short_lines"] == 1 / 3
  assert measures["duplicate_line_characters"] == 31 / 92


def test_limits_are_checked_in_order_and_bounds_are_kept():
  limits = {"b": {"min": 1}, "a": {"min": 2, "max": 3}, "c": {"max": 0}}
  assert quality.outside({"a": 2, "b": 1}, limits) is None
  assert quality.outside({"a": 3, "b": 1}, limits) is None
  assert quality.outside({"a": 4, "b": 0, "c": 1}, limits) == "b_below"
  assert quality.outside({"a": 4, "b": 1}, limits) == "a_above"
  assert quality.outside({"a": 1.9, "b": 1}, limits) == "a_below"
  assert quality.outside({}, limits) == "empty"


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_page_without_text_has_no_lines(text):
  assert quality.outside(quality.fineweb_quality(text, []), {}) == "empty"
