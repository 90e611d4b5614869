"""Sentences and words across scripts, by punctuation and spaces alone."""

import re

# Scripts written without spaces between words.
UNSPACED_SCRIPTS = ("Thai", "Khmr", "Laoo", "Mymr", "Hani", "Jpan")

# Mean word length in characters, to estimate words where no space tells them.
# An approximation of this project: good to about a quarter, enough to compare
# corpora of one language, not to compare languages.
_CHARACTERS_PER_WORD = {
  "Thai": 4.5,
  "Khmr": 4.5,
  "Laoo": 4.5,
  "Mymr": 5.0,
  "Hani": 1.6,
  "Jpan": 2.0,
}

# Marks that end a sentence: Latin, Arabic, Devanagari, CJK, Ethiopic, Armenian,
# Khmer and Burmese. Thai ends a sentence with a space.
_TERMINAL = ".!?…؟۔।॥。！？｡።፧፨։។៕၊။"
_CLOSING = "\"'”’»)）」』】]"
# A full stop may stand inside a number or an address; the others end a sentence
# wherever they stand.
_BOUNDARY = re.compile(
  rf"(?:(?<=[{re.escape(_TERMINAL.replace('.', ''))}])"
  rf"|(?<=[{re.escape(_TERMINAL)}][{re.escape(_CLOSING)}])(?=\s)"
  rf"|(?<=\.)(?=\s))"
  rf"(?![{re.escape(_TERMINAL + _CLOSING)}])"
)


def sentences(text: str) -> list[str]:
  """Splits text after terminal punctuation and at newlines.

  A full stop ends a sentence only before white space. A script without
  terminal marks, such as Thai, is split at newlines alone.
  """
  parts = [
    part.strip() for line in text.split("\n") for part in _BOUNDARY.split(line)
  ]
  return [part for part in parts if part]


def num_words(text: str, code: str) -> int:
  """Words of a text: counted at spaces, or estimated in unspaced scripts.

  Args:
    text: any text.
    code: canonical language code, which names the script.
  """
  script = code.rpartition("_")[2]
  if script in UNSPACED_SCRIPTS:
    characters = sum(not c.isspace() for c in text)
    return round(characters / _CHARACTERS_PER_WORD[script])
  return len(text.split())
