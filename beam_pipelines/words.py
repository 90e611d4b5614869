"""Words of a text in any language, by ICU.

Unicode's word boundaries (UAX #29); in Thai, Lao, Khmer, Burmese, Chinese and
Japanese, which put no spaces between words, ICU's dictionaries.
"""

from icu4py import breakers

from mlm.languages import registry


def words(text: str, code: str) -> list[str]:
  """Words and punctuation marks in order, without white space.

  Args:
    text: any text.
    code: canonical language code; "und" for unknown languages.

  Raises:
    UnknownLanguageError: if the registry does not have the code.
  """
  locale = "und" if code == "und" else registry.get(code).bcp47
  segments = breakers.WordBreaker(text, locale)
  return [word for s in segments if (word := s.strip())]
