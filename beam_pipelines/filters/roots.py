"""ROOTS's measures of a chunk, which Glot500-c uses on every language.

Source: Laurençon et al. 2022 (ROOTS) and its published filtering code
(bigscience-workshop/data-preparation); ImaniGooghari et al. 2023 (Glot500),
section 3.1, SF1 to SF4.
"""

import collections
import math
import unicodedata
from collections.abc import Iterable, Sequence

_SPECIAL = frozenset("PSZN")  # punctuation, symbols, separators, numbers


def measures(
  text: str,
  words: Sequence[str],
  *,
  character_ngram: int,
  word_ngram: int,
) -> dict[str, float]:
  """Values to hold against limits; all shares lie in [0, 1].

  Args:
    text: chunk.
    words: of the chunk.
    character_ngram: characters an n-gram (ROOTS: 10).
    word_ngram: words an n-gram (ROOTS: 5).

  Returns:
    words: their number; character_repetition: share of the character n-grams
    that are among the most frequent, at most the square root of the number of
    distinct ones, and occur twice or more; word_repetition: share of the word
    n-grams, lower case, that occur twice or more; special_characters.
  """
  characters = _counts(
    text[i : i + character_ngram]
    for i in range(len(text) - character_ngram + 1)
  )
  repeated = sum(n > 1 for n in characters)
  most_frequent = characters[: min(math.isqrt(len(characters)), repeated)]
  lower = [word.lower() for word in words]
  in_words = _counts(
    tuple(lower[i : i + word_ngram]) for i in range(len(lower) - word_ngram + 1)
  )
  special = sum(
    c.isspace() or unicodedata.category(c)[0] in _SPECIAL for c in text
  )
  return {
    "words": len(words),
    "character_repetition": sum(most_frequent) / max(sum(characters), 1),
    "word_repetition": sum(n for n in in_words if n > 1)
    / max(sum(in_words), 1),
    "special_characters": special / max(len(text), 1),
  }


def _counts(ngrams: Iterable) -> list[int]:
  """How often each distinct n-gram occurs, in descending order."""
  return sorted(collections.Counter(ngrams).values(), reverse=True)
