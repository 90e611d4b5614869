"""mC4's bad-word rule, over word lists that the user supplies.

The lists of C4 (LDNOOBW) are not part of this project; a directory with files
named by language (`en`, `zh`, …), one word or phrase a line, is read.
"""

import hashlib
import pathlib
import re

from mlm.languages import registry

# Written without spaces: a bad word counts anywhere in the text.
_ANYWHERE = ("jpn", "tha", "zho")
# Each of these would drop over a tenth of its language (the builder of C4 in
# TensorFlow Datasets).
_ALLOWED = {"jpn": ("sm", "グロ", "女の子"), "zho": ("性",)}


def read_lists(
  directory: str,
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Word lists of a directory.

  Returns:
    ({ISO 639-3 code: words}, names of files that are not named by a language
    of the registry, such as a licence or Klingon).

  Raises:
    ValueError: if there is no such directory, no file is named by a language,
      or a list is empty or not UTF-8.
  """
  folder = pathlib.Path(directory)
  if not folder.is_dir():
    raise ValueError(
      f"--bad_words {directory!r} is not a directory; give one with a file of "
      "words for each language (en, fr, …), or leave the option out"
    )
  lists, skipped = {}, []
  for path in sorted(folder.iterdir()):
    try:
      language = registry.lookup("bcp47", path.name).iso639_3
    except registry.UnknownLanguageError:
      skipped.append(path.name)
      continue
    try:
      lines = path.read_text("utf-8").lower().splitlines()
    except UnicodeDecodeError as error:
      raise ValueError(
        f"bad-word list {path} is not UTF-8 ({error})"
      ) from error
    allowed = _ALLOWED.get(language, ())
    words = {line.strip() for line in lines}.difference(allowed, {""})
    if not words:
      raise ValueError(f"bad-word list {path} is empty; remove it or fill it")
    lists[language] = tuple(sorted(words))
  if not lists:
    raise ValueError(
      f"no file in --bad_words {directory!r} is named by a language (en, fr, …)"
    )
  return lists, tuple(skipped)


def pattern_of(language: str, words: tuple[str, ...]) -> re.Pattern:
  """What finds a word of the list in lower-case text.

  Args:
    language: ISO 639-3 code; words stand alone but in Japanese, Thai and
      Chinese.
    words: in lower case.
  """
  joined = "|".join(map(re.escape, words))
  if language not in _ANYWHERE:
    joined = rf"(?:^|(?<=\W))(?:{joined})(?:$|(?=\W))"
  return re.compile(joined)


def bad_words(
  text: str, pattern: re.Pattern | None, *, url: str, filter_fraction: float
) -> str | None:
  """Drops a fraction of the pages with a listed word, chosen by their URLs.

  Source: TensorFlow Datasets, c4_utils: the MD5 of the URL over the exact ratio
  that the floating-point fraction is.

  Args:
    text: page.
    pattern: of `pattern_of`; None if the language has no list.
    url: normalised URL.
    filter_fraction: 0.999 for mC4, 1.0 for C4.
  """
  if pattern is None or not pattern.search(text.lower()):
    return None
  digest = int(hashlib.md5(url.encode()).hexdigest(), 16)
  numerator, denominator = filter_fraction.as_integer_ratio()
  return None if digest % denominator >= numerator else "bad_word"
