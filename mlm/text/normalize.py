"""Forms under which two URLs, or two lines, count as the same."""

import re

# Source: the C4 builder of TensorFlow Datasets (c4_utils), which cuts the query
# at these marks of tracking and feeds.
_QUERY_CUT = re.compile(r"\?(utm_|ref|feed).*", re.IGNORECASE)
_SCHEME = re.compile(r"^https?://(www\.)?", re.IGNORECASE)


def normalize_url(url: str) -> str:
  """The URL without scheme, "www.", tracking query and trailing slash."""
  return _QUERY_CUT.sub("", _SCHEME.sub("", url.strip())).rstrip("/")


def fold_line(line: str) -> str:
  """The line stripped and lower-cased, as C4 hashes it."""
  return line.strip().lower()
