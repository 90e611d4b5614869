"""Normal forms that hashing and deduplication compare; never shown to people."""

import re

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
