"""Sentences and words in many scripts, worked by hand."""

import pytest

from mlm.text import segment


@pytest.mark.parametrize(
  "text, expected",
  [
    ("It is 3.5 km. Go!", ["It is 3.5 km.", "Go!"]),
    ("Он пришёл. Где?", ["Он пришёл.", "Где?"]),
    ("यह ठीक है। और वह?", ["यह ठीक है।", "और वह?"]),
    ("今天下雨。明天呢？", ["今天下雨。", "明天呢？"]),
    ("ሰላም ነው። እንዴት ነህ?", ["ሰላም ነው።", "እንዴት ነህ?"]),
    ("كيف الحال؟ بخير.", ["كيف الحال؟", "بخير."]),
    ("Բարև ձեզ։ Ո՞ւր։", ["Բարև ձեզ։", "Ո՞ւր։"]),
    ("สวัสดีครับ ไปไหน", ["สวัสดีครับ ไปไหน"]),
    ("one\ntwo", ["one", "two"]),
    ("", []),
  ],
)
def test_sentences(text, expected):
  assert segment.sentences(text) == expected


def test_no_letter_is_lost():
  text = 'He said "No." (Why?) 「はい。」そう… "ठीक।" ok'
  joined = "".join(segment.sentences(text))
  assert joined.replace(" ", "") == text.replace(" ", "")


def test_words_are_counted_at_spaces_or_estimated():
  assert segment.num_words("один два три", "rus_Cyrl") == 3
  assert segment.num_words("今天下雨了吗朋友", "zho_Hani") == 5  # 8 / 1.6
  assert segment.num_words("", "tha_Thai") == 0
