"""Quality measures of a page, and the limits that keep or drop it.

Each group of measures is a function of a text and its words that returns
{measure: value}; `outside` compares them with limits in the order of the
limits. Words are given, so that every segmenter can be used.

Sources: Gopher (Rae et al. 2021, appendix A.1.1 and table A1); FineWeb (Penedo
et al. 2024); where they are silent, what datatrove 0.10 does. One difference:
n-grams that repeat are compared word by word, not as strings without spaces.
"""

import collections
import functools
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import regex

from mlm.text import normalize

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SHORT_LINE = 30  # characters

_TERMINAL = r"\p{Sentence_Terminal}\u17d6\u17d9\u17da"
_ENDS_SENTENCE = regex.compile(rf"[{_TERMINAL}]")
_ALL_PUNCTUATION = regex.compile(
  rf"[{_TERMINAL}{regex.escape(normalize.PUNCTUATION)}]+"
)
_ELLIPSES = ("...", "…")


def gopher_repetition(text: str, words: Sequence[str]) -> dict[str, float]:
  """How much of a page repeats; shares of the characters unless said.

  Returns:
    duplicate_paragraphs, duplicate_lines: shares of their number;
    duplicate_paragraph_characters, duplicate_line_characters;
    top_n_gram for n in 2…4: of the most frequent n-gram, all its copies;
    duplicate_n_grams for n in 5…10: in n-grams that occurred before, none
    overlapping.
  """
  if not text:
    return {}
  result = {}
  for name, parts in (
    ("paragraph", re.split(r"\n{2,}", text.strip())),
    ("line", re.split(r"\n+", text)),
  ):
    duplicates, characters = _duplicates(parts)
    result[f"duplicate_{name}s"] = duplicates / len(parts)
    result[f"duplicate_{name}_characters"] = characters / len(text)
  ends = np.cumsum([0, *map(len, words)])
  for n, repeats in _repeats(words):
    characters = ends[n:] - ends[:-n]
    if n in TOP_NGRAMS:
      start, copies = _most_frequent(repeats)
      # With the spaces between its words.
      joined = int(characters[start]) + n - 1
      result[f"top_{n}_gram"] = joined * copies / len(text)
    if n in DUPLICATE_NGRAMS:
      repeated = _repeated_characters(repeats, characters, n)
      result[f"duplicate_{n}_grams"] = repeated / len(text)
  return result


def gopher_quality(
  text: str, words: Sequence[str], stop_words: Collection[str]
) -> dict[str, float]:
  """Whether a page reads like text.

  Returns:
    words: those that are not all punctuation; mean_word_length: of these, in
    characters; hashes, ellipses: for each word; bullet_lines, ellipsis_lines:
    shares of the lines; alphabetic_words: share with a letter; stop_words:
    different ones on the page.
  """
  counts = collections.Counter(words)
  num_kept = num_characters = alphabetic = 0
  for word, number in counts.items():
    is_punctuation, has_letter = _kind(word)
    alphabetic += number * has_letter
    if not is_punctuation:
      num_kept += number
      num_characters += number * len(word)
  lines = text.splitlines()
  num_words, num_lines = max(len(words), 1), max(len(lines), 1)
  return {
    "words": num_kept,
    "mean_word_length": num_characters / max(num_kept, 1),
    "hashes": text.count("#") / num_words,
    "ellipses": sum(map(text.count, _ELLIPSES)) / num_words,
    "bullet_lines": sum(s.lstrip().startswith(("•", "-")) for s in lines)
    / num_lines,
    "ellipsis_lines": sum(s.rstrip().endswith(_ELLIPSES) for s in lines)
    / num_lines,
    "alphabetic_words": alphabetic / num_words,
    "stop_words": sum(word in counts for word in set(stop_words)),
  }


@functools.lru_cache(maxsize=1 << 16)
def _kind(word: str) -> tuple[bool, bool]:
  """(all punctuation, has a letter); words repeat from page to page."""
  return bool(_ALL_PUNCTUATION.fullmatch(word)), any(map(str.isalpha, word))


def fineweb_quality(text: str, words: Sequence[str]) -> dict[str, float]:
  """Whether a page is made of sentences rather than of lists.

  Returns:
    sentence_lines: share of the lines that end a sentence; short_lines: share
    of lines up to 30 characters; duplicate_line_characters: of the characters
    without line breaks; line_breaks: for each word.
  """
  lines = [line for line in text.split("\n") if line.strip()]
  if not lines:
    return {}
  characters = len(text) - text.count("\n")
  return {
    "sentence_lines": sum(bool(_ENDS_SENTENCE.match(s[-1])) for s in lines)
    / len(lines),
    "short_lines": sum(len(s) <= SHORT_LINE for s in lines) / len(lines),
    "duplicate_line_characters": _duplicates(lines)[1] / characters,
    "line_breaks": text.count("\n") / max(len(words), 1),
  }


def outside(
  measures: Mapping[str, float], limits: Mapping[str, Mapping[str, float]]
) -> str | None:
  """Name of the first limit that a page breaks, as "measure_below" or "_above".

  Args:
    measures: values; empty (a page without text) breaks "empty".
    limits: {measure: {"min": value, "max": value}}, either may be missing. A
      measure that the page lacks (too short for an n-gram) breaks nothing.
  """
  if not measures:
    return "empty"
  for name, limit in limits.items():
    value = measures.get(name)
    if value is None:
      continue
    if value < limit.get("min", value):
      return f"{name}_below"
    if value > limit.get("max", value):
      return f"{name}_above"
  return None


def _duplicates(parts: Sequence[str]) -> tuple[int, int]:
  """(number, characters) of the parts that occurred before."""
  counts = collections.Counter(parts)
  return len(parts) - len(counts), sum(
    len(part) * (n - 1) for part, n in counts.items() if n > 1
  )


def _repeats(words):
  """(n, n-grams that occur twice or more) for n = 2 … 10, while there are any.

  N-grams are (positions, numbers), two arrays: where each occurs, ascending,
  and which one it is.
  """
  numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
  ids = np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))
  positions, grams = np.arange(len(words)), ids
  for n in range(2, min(max(DUPLICATE_NGRAMS), len(words)) + 1):
    # What repeats begins with what repeats.
    if len(positions) and positions[-1] > len(words) - n:
      positions, grams = positions[:-1], grams[:-1]
    if len(positions):
      pairs = grams * len(numbers) + ids[positions + n - 1]
      _, grams, counts = np.unique(
        pairs, return_inverse=True, return_counts=True
      )
      often = counts[grams] > 1
      positions, grams = positions[often], grams[often]
    yield n, (positions, grams)


def _most_frequent(repeats) -> tuple[int, int]:
  """(position, copies) of the most frequent n-gram that occurs first."""
  positions, grams = repeats
  if not len(grams):
    return 0, 1
  copies = np.bincount(grams)[grams]
  first = int(np.argmax(copies))
  return int(positions[first]), int(copies[first])


def _repeated_characters(repeats, characters, n) -> int:
  """Characters of n-grams seen before, read in order, n words on after one."""
  seen, after, total = set(), 0, 0
  for start, gram in zip(*(array.tolist() for array in repeats)):
    if start < after:
      continue
    if gram in seen:
      total += int(characters[start])
      after = start + n
    seen.add(gram)
  return total
