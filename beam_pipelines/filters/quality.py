"""Quality measures of a page, and the limits that keep or drop it.

Each group of measures is a function of a text and its words that returns
{measure: value}; `outside` compares them with limits in the order of the
limits. Words are given, so that every segmenter can be used.

Sources: Gopher (Rae et al. 2021, appendix A.1.1 and table A1); FineWeb (Penedo
et al. 2024); where they are silent, what datatrove 0.10 does. One difference:
n-grams that repeat are compared word by word, not as strings without spaces.
"""

import collections
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
  lengths = np.array([len(word) for word in words], np.int64)
  ends = np.concatenate([[0], np.cumsum(lengths)])
  for n, first, grams in _ngrams(words):
    characters = ends[n:] - ends[:-n]
    if n in TOP_NGRAMS:
      # The first of the most frequent, and its spaces.
      counts = np.bincount(grams)
      top = np.flatnonzero(counts == counts.max())
      start = first[top].min()
      joined = characters[start] + n - 1
      result[f"top_{n}_gram"] = float(joined * counts.max() / len(text))
    if n in DUPLICATE_NGRAMS:
      repeated = _repeated_characters(grams, characters, n)
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
  kept = {w: n for w, n in counts.items() if not _ALL_PUNCTUATION.fullmatch(w)}
  num_kept = sum(kept.values())
  lines = text.splitlines()
  num_words, num_lines = max(len(words), 1), max(len(lines), 1)
  alphabetic = sum(n for w, n in counts.items() if any(map(str.isalpha, w)))
  return {
    "words": num_kept,
    "mean_word_length": sum(len(w) * n for w, n in kept.items())
    / max(num_kept, 1),
    "hashes": text.count("#") / num_words,
    "ellipses": sum(map(text.count, _ELLIPSES)) / num_words,
    "bullet_lines": sum(s.lstrip().startswith(("•", "-")) for s in lines)
    / num_lines,
    "ellipsis_lines": sum(s.rstrip().endswith(_ELLIPSES) for s in lines)
    / num_lines,
    "alphabetic_words": alphabetic / num_words,
    "stop_words": sum(word in counts for word in set(stop_words)),
  }


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


def _ngrams(words):
  """(n, first position of each distinct n-gram, its number at each position)."""
  numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
  ids = np.fromiter((numbers[w] for w in words), np.int64, len(words))
  grams = ids
  for n in range(2, max(DUPLICATE_NGRAMS) + 1):
    if len(words) < n:
      return
    pairs = grams[:-1] * len(numbers) + ids[n - 1 :]
    _, first, grams = np.unique(pairs, return_index=True, return_inverse=True)
    yield n, first, grams


def _repeated_characters(grams, characters, n) -> int:
  """Characters of n-grams seen before, read in order, n words on after one."""
  often = np.flatnonzero(np.bincount(grams)[grams] > 1)
  seen, after, total = set(), 0, 0
  for start, gram in zip(often.tolist(), grams[often].tolist()):
    if start < after:
      continue
    if gram in seen:
      total += int(characters[start])
      after = start + n
    seen.add(gram)
  return total
