"""chrF against sacrebleu, in eight scripts, and its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm.text import chrf

# sacrebleu 2.6.0, CHRF().sentence_score(text, [reference]).score / 100.
SACREBLEU = [
  ("the cat sat on the mat", "the cat is on the mat", 0.645779),
  ("Die Demonstration", "Die Demonstration fand statt", 0.649973),
  ("示威游行继续进", "示威游行继续", 0.932588),
  ("क ख ग घ", "को आगे बढ़ाया गया", 0.041667),
  ("ab", "a", 0.833333),
  ("Η διαδήλωση πραγμα", "Η διαδήλωση", 0.858513),
  ("בעיה גדולה", "קומץ פעילים נ", 0.080255),
  ("시위는 진행", "시위는 진행되었으", 0.525012),
  ("التظاهر ولكن", "وقد استمر التظاهر ولكن", 0.565271),
  ("aaaaaaaa", "aaa", 0.65566),
  ("Demonstratsiya", "Демонстрация все", 0.0),
  ("", "abc", 0.0),
]


@pytest.mark.parametrize("text, reference, score", SACREBLEU)
def test_scores_are_those_of_sacrebleu(text, reference, score):
  assert chrf.chrf(text, reference) == pytest.approx(score, abs=1e-6)


@given(st.text(), st.text())
def test_scores_are_shares_and_white_space_does_not_count(text, reference):
  score = chrf.chrf(text, reference)
  assert 0 <= score <= 1 + 1e-12
  assert chrf.chrf(f" {text}\n", reference) == score
  if text.split():
    assert chrf.chrf(text, text) == pytest.approx(1)
