"""C4's deduplication by line.

A line, stripped and lower-cased, stays in one page: the one whose URL has the
smallest hash, so no site is favoured. Source: TensorFlow Datasets, c4_utils
(the C4 paper describes spans of three sentences instead).
"""

import hashlib
from collections.abc import Iterable, Iterator, Set

from mlm.text import normalize


def line_hash(line: str) -> bytes:
  """8 bytes of the MD5 of the folded line."""
  return hashlib.md5(normalize.fold_line(line).encode()).digest()[:8]


def line_hashes(text: str) -> set[bytes]:
  return {line_hash(line) for line in text.split("\n") if line.strip()}


def lost_lines(
  owners: Iterable[tuple[bytes, str]],
) -> Iterator[str]:
  """Pages that lose a line, given all (URL hash, page id) that have it."""
  candidates = sorted(set(owners))
  for _, page in candidates[1:]:
    yield page


def remove_lines(text: str, lost: Set[bytes]) -> tuple[str, int, int]:
  """The text without lines owned elsewhere and without repeats of its own.

  Returns:
    (text, lines dropped as global duplicates, as local duplicates).
  """
  kept, seen, num_global, num_local = [], set(), 0, 0
  for line in text.split("\n"):
    digest = line_hash(line)
    if digest in lost:
      num_global += 1
    elif digest in seen:
      num_local += 1
    else:
      seen.add(digest)
      kept.append(line)
  return "\n".join(kept), num_global, num_local
