"""Normal forms that hashing and deduplication compare; never shown to people."""

import functools
import re
import sys
import unicodedata

_SCHEME = re.compile(r"https?://(?:www\.)?")
# A query that opens with one of these says where the reader came from.
_TRACKING = re.compile(r"\?(?:utm_|ref|feed).*")


def normalize_url(url: str) -> str:
  """The form of a URL under which crawls of one page meet.

  Removes the scheme with the "www." after it, a query that begins with utm_,
  ref or feed, and slashes at the end. Case is kept, and a scheme inside the
  address (as web archives have it) goes too, so that hashes, and with them the
  validation split, agree with mC4's.

  Source: the C4 builder of TensorFlow Datasets (behaviour, not text).
  """
  return _TRACKING.sub("", _SCHEME.sub("", url)).rstrip("/")


def fold_line(line: str) -> str:
  """The form under which two lines count as the same: stripped, lower case.

  Source: line deduplication of the C4 builder of TensorFlow Datasets.
  """
  return line.strip().lower()


# CCNet's set as code points: ASCII and CJK punctuation, a few quotes, controls
# but tab and line feed, and, by an old slip, the full-width one.
PUNCTUATION = (
  "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
  + "".join(map(chr, [*range(9), 11, 12, *range(13, 32), *range(127, 160)]))
)
_PUNCTUATION = re.compile(f"[{re.escape(PUNCTUATION)}]+")
_NUMBER = re.compile(r"\d+(?:[.,،٫⎖⎗⎘]\d+)?")


def simplify(text: str) -> str:
  """The form under which near-duplicates are compared.

  Lower case; a number in the digits of any script becomes 0; punctuation
  becomes a space; white space is folded; combining marks (Unicode Mn) go, which
  in Indic scripts and Thai takes vowel signs too.

  Source: FineWeb2 (Penedo et al. 2025) as datatrove 0.10 does it.
  """
  text = _PUNCTUATION.sub(" ", _NUMBER.sub("0", text.lower()))
  # Words repeat; a mark that stands alone leaves nothing behind.
  return " ".join(map(_decompose, text.split())).strip()


@functools.lru_cache(maxsize=1 << 16)
def _decompose(word: str) -> str:
  if word.isascii():
    return word
  return unicodedata.normalize("NFD", word).translate(_without_marks())


@functools.cache
def _without_marks() -> dict[int, None]:
  """Translation that deletes every mark; all lie from U+0300 on."""
  codes = range(0x300, sys.maxunicode + 1)
  return dict.fromkeys(i for i in codes if unicodedata.category(chr(i)) == "Mn")
