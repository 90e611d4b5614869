"""Which script a text is written in, as ISO 15924 codes.

The script of a character is read from its Unicode name, whose first word names
the script for every letter of the scripts below. Codes are those of
`mlm.languages.registry`: mixed systems have one code (Jpan = Han + kana, Kore =
Hangul + Han), so a Japanese or Korean text has one script like any other.
"""

import collections
import functools
import unicodedata

UNCODED = "Zzzz"  # ISO 15924: a letter of a script that is not listed here

_SCRIPT_OF_NAME = {
  "LATIN": "Latn",
  "CYRILLIC": "Cyrl",
  "GREEK": "Grek",
  "COPTIC": "Copt",
  "ARMENIAN": "Armn",
  "GEORGIAN": "Geor",
  "HEBREW": "Hebr",
  "ARABIC": "Arab",
  "SYRIAC": "Syrc",
  "THAANA": "Thaa",
  "NKO": "Nkoo",
  "TIFINAGH": "Tfng",
  "ETHIOPIC": "Ethi",
  "DEVANAGARI": "Deva",
  "BENGALI": "Beng",
  "GURMUKHI": "Guru",
  "GUJARATI": "Gujr",
  "ORIYA": "Orya",
  "TAMIL": "Taml",
  "TELUGU": "Telu",
  "KANNADA": "Knda",
  "MALAYALAM": "Mlym",
  "SINHALA": "Sinh",
  "THAI": "Thai",
  "LAO": "Laoo",
  "KHMER": "Khmr",
  "MYANMAR": "Mymr",
  "TIBETAN": "Tibt",
  "MONGOLIAN": "Mong",
  "CHEROKEE": "Cher",
  "JAVANESE": "Java",
  "SUNDANESE": "Sund",
  "BALINESE": "Bali",
  "TAGALOG": "Tglg",
  "MEETEI": "Mtei",
  "OL": "Olck",
  "VAI": "Vaii",
  "ADLAM": "Adlm",
  "YI": "Yiii",
  "CANADIAN": "Cans",
  "BOPOMOFO": "Bopo",
  "HANGUL": "Hang",
  "HIRAGANA": "Hira",
  "KATAKANA": "Kana",
  "KATAKANA-HIRAGANA": "Kana",
  "CJK": "Hani",
  "IDEOGRAPHIC": "Hani",
  "FEMININE": "Latn",  # the ordinal indicators of Romance languages
  "MASCULINE": "Latn",
}
# Marks and letters that go with any script.
_COMMON_NAMES = {"COMBINING", "MODIFIER", "VARIATION", "MICRO", "DOUBLE-STRUCK"}
_WIDTHS = {"FULLWIDTH", "HALFWIDTH"}

# Scripts whose letters a text in the mixed script is made of.
_PARTS = {
  "Jpan": ("Hani", "Hira", "Kana"),
  "Kore": ("Hang", "Hani"),
}


@functools.lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
  """ISO 15924 code of the script of one letter or mark.

  Args:
    character: a string of length 1.

  Returns:
    The code; `UNCODED` for letters of scripts that the table above lacks; None
    for what belongs to no script: digits, punctuation, white space, symbols,
    and marks that combine with any script.
  """
  if unicodedata.category(character)[0] not in "LM":
    return None
  words = unicodedata.name(character, "").split()
  if words and words[0] in _WIDTHS:
    words = words[1:]
  if not words:
    return UNCODED
  if words[0] in _COMMON_NAMES:
    return None
  return _SCRIPT_OF_NAME.get(words[0], UNCODED)


def count_scripts(text: str) -> collections.Counter:
  """Counter of the letters and marks of a text by their script."""
  counts = collections.Counter()
  for character, count in collections.Counter(text).items():
    script = script_of(character)
    if script is not None:
      counts[script] += count
  return counts


def main_script(text: str) -> tuple[str | None, float]:
  """The script that most letters are in, and their share of all letters.

  Han, kana and Hangul compete as one system, which is then called Kore or Jpan
  if Hangul or kana make up more than a twentieth of it (the larger of the two),
  else Hani: a single kana in a Chinese page does not make it Japanese. The
  twentieth is ours; Japanese prose is around half kana.

  Returns:
    (script, share), share in (0, 1]; (None, 0.0) for a text without letters.
  """
  counts = count_scripts(text)
  total = counts.total()
  if not total:
    return None, 0.0
  hangul = counts.pop("Hang", 0)
  kana = counts.pop("Hira", 0) + counts.pop("Kana", 0)
  east_asian = hangul + kana + counts.pop("Hani", 0)
  if east_asian:
    phonetic, script = max((hangul, "Kore"), (kana, "Jpan"))
    name = script if 20 * phonetic > east_asian else "Hani"
    counts[name] = east_asian
  script, count = max(counts.items(), key=lambda item: (item[1], item[0]))
  return script, count / total


def script_share(text: str, script: str) -> float:
  """Share of the letters of a text that a text in `script` may consist of.

  Args:
    text: any text.
    script: ISO 15924 code as the registry has it; Jpan admits Han and kana,
      Kore admits Hangul and Han, so that short texts in Han alone still pass.

  Returns:
    A share in [0, 1]; 0.0 for a text without letters.
  """
  counts = count_scripts(text)
  if not counts:
    return 0.0
  return sum(counts[part] for part in _PARTS.get(script, (script,))) / (
    counts.total()
  )
