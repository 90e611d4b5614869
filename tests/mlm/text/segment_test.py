"""Sentences and words in many scripts, worked by hand."""

import hypothesis
import pytest
from hypothesis import strategies

from mlm.languages import registry
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
    ("Πού είσαι; Εδώ.", ["Πού είσαι;", "Εδώ."]),
    ("សួស្តី។ ខ្ញុំទៅ៕", ["សួស្តី។", "ខ្ញុំទៅ៕"]),
    ("သူ သွားသည်။ ဟုတ်", ["သူ သွားသည်။", "ဟုတ်"]),
    ("ฉันไป ซื้อของต่าง ๆ มาก", ["ฉันไป", "ซื้อของต่าง ๆ มาก"]),
    ("“好！”他说。再见", ["“好！”", "他说。", "再见"]),
    ("J. R. Smith came", ["J. R. Smith came"]),
    ("Am 3. Mai war er da", ["Am 3. Mai war er da"]),
    ("Apples, etc. are fruit", ["Apples, etc. are fruit"]),
    ("“Really?” she asked", ["“Really?” she asked"]),
    ("a; b", ["a; b"]),  # a semicolon ends only Greek questions
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


@hypothesis.given(
  strategies.text(alphabet="aB1 .!?…\"'\n。？।؟። ፡กข ๆεա։;　\u200b()”")
)
def test_sentences_lose_nothing_but_white_space(text):
  found = segment.sentences(text)
  assert "".join("".join(found).split()) == "".join(text.split())
  assert all(sentence and sentence == sentence.strip() for sentence in found)
  spans = segment.sentence_spans(text)
  assert [text[start:end] for start, end in spans] == found


def test_a_long_dot_leader_is_one_sentence():
  # Took minutes with a pattern that tries again at every dot.
  text = "." * 100_000 + "a"
  assert segment.sentences(text) == [text]


@pytest.mark.parametrize(
  "text, code, expected",
  [
    ("один два три", "rus_Cyrl", 3),
    ("Hello, big   world!\n- ok", "eng_Latn", 4),
    ("هذا كتاب؟", "arb_Arab", 2),
    ("यह एक घर है।", "hin_Deva", 4),
    ("나는 학교에 간다", "kor_Hang", 3),
    ("", "tha_Thai", 0),
    ("...", "tha_Thai", 0),
    ("好", "zho_Hani", 1),
    ("中" * 37, "zho_Hani", 20),  # 37 / 1.85
    ("の" * 25 + "。", "jpn_Jpan", 10),  # 25 / 2.5
    ("กา" * 43, "tha_Thai", 20),  # 86 letters / 4.3
    ("ที่" * 43, "tha_Thai", 10),  # two of the three characters are marks
    ("中文 Python 3 中", "zho_Hani", 4),  # round(3 / 1.85) + 2
  ],
)
def test_words_are_counted_at_spaces_or_estimated(text, code, expected):
  assert segment.num_words(text, code) == expected


def test_every_language_without_spaces_has_its_letters_per_word():
  scripts = {
    x.script for x in registry.languages() if x.word_separator == "none"
  }
  assert scripts == set(segment._LETTERS_PER_WORD)
