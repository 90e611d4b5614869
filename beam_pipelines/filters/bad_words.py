"""mC4's bad-word rule, over word lists that the user supplies.

The lists of C4 (LDNOOBW) are not part of this project; a directory with files
named by language code (`en`, `zh`, …), one word or phrase a line, is read.
"""

import hashlib
import pathlib
import re

from mlm.languages import registry

# Written without spaces: a bad word counts anywhere in the text.
_ANYWHERE = ("jpn_Jpan", "tha_Thai", "zho_Hani")


def read_lists(directory: str) -> dict[str, re.Pattern]:
  """One pattern a language from the files of a directory.

  Raises:
    ValueError: if the directory is missing, a file is not named by a language
      code, or a list is empty.
  """
  folder = pathlib.Path(directory)
  if not folder.is_dir():
    raise ValueError(f"bad-word directory {directory!r} does not exist")
  patterns = {}
  for path in sorted(folder.iterdir()):
    if path.name.startswith(".") or path.suffix == ".md":
      continue
    code = registry.lookup("bcp47", path.name).code
    words = [w.strip().lower() for w in path.read_text("utf-8").splitlines()]
    words = [re.escape(w) for w in words if w]
    if not words:
      raise ValueError(f"bad-word list {path} is empty; remove it or fill it")
    joined = "|".join(words)
    if code not in _ANYWHERE:
      joined = rf"(?:^|(?<=\W))(?:{joined})(?:$|(?=\W))"
    patterns[code] = re.compile(joined)
  return patterns


def bad_words(
  text: str, *, pattern: re.Pattern | None, url: str, keep_one_in: int
) -> str | None:
  """Drops pages with a listed word, but for a hashed share of them.

  mC4 filters a fraction of 0.999, so one in a thousand such pages stays, chosen
  by the hash of its URL (TensorFlow Datasets, c4_utils).

  Args:
    text: page.
    pattern: of `read_lists`; None if the language has no list.
    url: normalised URL.
    keep_one_in: 1000 for mC4.
  """
  if pattern is None or not pattern.search(text.lower()):
    return None
  digest = int(hashlib.md5(url.encode()).hexdigest(), 16)
  return None if digest % keep_one_in == keep_one_in - 1 else "bad_word"
