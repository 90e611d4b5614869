"""ROOTS's measures by hand, and where they must not depend on the script."""

import pytest

from beam_pipelines.filters import roots


def _measures(text, character_ngram=10, word_ngram=5):
  return roots.measures(
    text,
    text.split(),
    character_ngram=character_ngram,
    word_ngram=word_ngram,
  )


def test_worked_example():
  # Bigrams: ab 2, ba 1, bc 1, cd 1, de 1: one repeats.
  found = _measures("ababcde", 2, 1)
  assert found["character_repetition"] == 2 / 6
  # ab 3, ba 2 and three others: of five distinct ones the top two count.
  found = _measures("abababcde", 2, 1)
  assert found["character_repetition"] == (3 + 2) / 8
  assert found["word_repetition"] == 0


def test_words_repeat_in_any_case():
  found = _measures("Да нет ДА нет да", 10, 2)
  # да нет ×2, нет да ×2: all four bigrams repeat.
  assert found["word_repetition"] == 1
  assert found["words"] == 5


@pytest.mark.parametrize(
  "text, share",
  [
    ("ab1 ", 2 / 4),
    ("กข๓。", 2 / 4),
    ("ⴰⴱ🥖", 1 / 3),
    ("नमस्ते", 0),  # combining marks are letters' parts
    ("", 0),
  ],
)
def test_special_characters(text, share):
  assert _measures(text)["special_characters"] == share


def test_short_chunks_repeat_nothing():
  found = _measures("ሰላም")
  assert found["character_repetition"] == found["word_repetition"] == 0
