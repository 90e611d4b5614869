"""Sentences and words in any script, by punctuation alone.

No dictionary and no model: a rule that a reader can check in every language, at
the price of errors that the docstrings state.
"""

import itertools
import re
import unicodedata

from mlm.languages import registry

# These end a sentence wherever they stand: CJK, danda, Arabic, Armenian,
# Ethiopic (two word spaces are often typed for the full stop), Burmese, Khmer.
_HARD = "。！？｡．।॥؟۔։።፧፨။។៕"
# These end one before white space only.
_SOFT = ".!?…‼⁇⁈⁉\u037e"
_CLOSERS = "\"'”’»›)]}）］」』】》〉"
_END = re.compile(
  rf"(?:[{_HARD}]|፡፡)[{_HARD}{_SOFT}፡]*[{re.escape(_CLOSERS)}]*\s*"
  # Look-behind and possessive: linear time on dot leaders.
  rf"|(?<![{_SOFT}])[{_SOFT}]++[{re.escape(_CLOSERS)}]*+(?:\s+|$)"
  # The Greek question mark is usually typed as a semicolon.
  r"|(?<=[\u0370-\u03ff\u1f00-\u1fff]);(?:\s+|$)"
)
# Thai and Lao have no full stop: a space ends a clause or a sentence, except
# beside the repetition sign.
_THAI_LAO_SPACE = re.compile(
  r"(?<=[\u0e01-\u0e45\u0e47-\u0ec5\u0ec7-\u0eff])\s+"
  r"(?=[\u0e01-\u0e45\u0e47-\u0ec5\u0ec7-\u0eff])"
)

# Letters and digits, without marks, that carry the meaning of one English word:
# measured on 1,045 parallel lines of NTREX-128 with 21,293 English words.
_LETTERS_PER_WORD = {
  "Thai": 4.3,
  "Laoo": 4.3,
  "Khmr": 4.0,
  "Mymr": 3.3,
  "Hani": 1.85,  # mean of 1.79 (simplified) and 1.92 (traditional)
  "Jpan": 2.5,
}
_UNSEGMENTED = re.compile(
  "["
  "\u0e00-\u0eff"  # Thai, Lao
  "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
  "\u1780-\u17ff"  # Khmer
  "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
  "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
  "]+"
)


def sentences(text: str) -> list[str]:
  """Splits a text into sentences, in order, stripped, none empty.

  A line break always ends a sentence. Inside a line one ends after terminal
  punctuation of any script and the quotes or brackets that close on it. A mark
  that abbreviations and numbers share (. ! ? …) needs white space behind it,
  and no lower-case letter after that; a lone full stop also ends nothing after
  one capital letter (J. Smith) or one or two digits (3. Mai), which loses real
  ends such as "Plan B. Then". In Thai and Lao, spaces separate; what comes out
  is often a clause.

  Joined, the sentences hold every character of the text but white space.
  """
  return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
  """Positions (start, end) of the `sentences` of a text, in characters."""
  spans = []
  offset = 0
  for line in text.splitlines(keepends=True):
    cuts = [m.end() for m in _THAI_LAO_SPACE.finditer(line)]
    cuts += [m.end() for m in _END.finditer(line) if _is_end(line, m)]
    cuts = sorted({0, *cuts, len(line)})
    for start, end in itertools.pairwise(cuts):
      part = line[start:end]
      if stripped := part.strip():
        first = offset + start + len(part) - len(part.lstrip())
        spans.append((first, first + len(stripped)))
    offset += len(line)
  return spans


def _is_end(line: str, match: re.Match) -> bool:
  """False for marks inside numbers, and after initials and ordinals."""
  before = line[max(0, match.start() - 8) : match.start()]
  after = line[match.end() : match.end() + 1]
  mark = match.group().strip()
  if before[-1:].isdigit() and after.isdigit() and match.group() in ".．":
    return False
  if mark[0] in _HARD or not after:
    return True
  if after.islower():
    return False
  if mark == ".":
    word = re.split(r"[\s(\[]", before)[-1]
    return not (len(word) == 1 and word.isupper()) and not (
      len(word) <= 2 and word.isdigit()
    )
  return True


def num_words(text: str, code: str) -> int:
  """Number of words of a text in a language.

  Where words are separated by spaces: white-space separated tokens that hold a
  letter or a digit. Where they are not (Thai, Lao, Khmer, Burmese, Chinese,
  Japanese): letters divided by the number of letters that carry one English
  word in parallel text, plus the tokens of other scripts. That is an
  approximation which makes counts comparable across languages of equal
  content, not a segmentation into words.

  Args:
    text: any text.
    code: canonical language code; decides which of the two it is.

  Returns:
    Words, at least 1 if the text has a letter or a digit.

  Raises:
    UnknownLanguageError: if the registry does not have the code.
  """
  language = registry.get(code)
  if language.word_separator == "space":
    return _num_tokens(text)
  letters = sum(
    unicodedata.category(character)[0] in "LN"
    for run in _UNSEGMENTED.findall(text)
    for character in run
  )
  others = _num_tokens(_UNSEGMENTED.sub(" ", text))
  words = round(letters / _LETTERS_PER_WORD[language.script]) + others
  return max(words, 1 if letters else 0)


def _num_tokens(text: str) -> int:
  return sum(any(map(str.isalnum, token)) for token in text.split())
