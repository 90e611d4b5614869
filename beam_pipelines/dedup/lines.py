"""C4's deduplication by line.

A line, stripped and lower-cased, stays in one page: the one whose URL has the
smallest hash, so no site is favoured. Source: TensorFlow Datasets, c4_utils
(the C4 paper describes spans of three sentences instead).
"""

import hashlib
from collections.abc import Set

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_pipelines.dedup import smallest
from mlm.text import normalize

STAGE = "line_dedup"


def line_hash(line: str) -> bytes:
  """8 bytes of the MD5 of the folded line."""
  return hashlib.md5(normalize.fold_line(line).encode()).digest()[:8]


def line_hashes(text: str) -> set[bytes]:
  return {line_hash(line) for line in text.split("\n") if line.strip()}


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


def _lines_of(page):
  url = normalize.normalize_url(page["url"]).encode()
  owner = (hashlib.md5(url).digest(), page["id"])
  for digest in line_hashes(page["text"]):
    yield digest, owner


def _without_lost(element):
  _, joined = element
  (page,) = joined["pages"]
  text, num_global, num_local = remove_lines(page["text"], set(joined["lost"]))
  Metrics.counter(STAGE, "global_duplicate").inc(num_global)
  Metrics.counter(STAGE, "local_duplicate").inc(num_local)
  page = {**page, "removed_lines": [num_global, num_local]}
  if text:
    yield {**page, "text": text}
  else:
    Metrics.counter(STAGE, "all_lines_duplicate").inc()
    yield beam.pvalue.TaggedOutput(
      "dropped", {**page, "drop": [STAGE, "all_lines_duplicate"]}
    )


def deduplicate(pages, *, num_parts: int):
  """Pages -> (pages without duplicate lines, pages with no other lines).

  Args:
    pages: PCollection.
    num_parts: of a line's pages (`smallest.losers`).
  """
  owners = pages | "lines" >> beam.FlatMap(_lines_of)
  lost = smallest.losers(
    owners, "line", num_parts=num_parts
  ) | "lost lines" >> beam.MapTuple(lambda digest, _, lost: (lost[1], digest))
  by_id = pages | "key by id" >> beam.Map(lambda page: (page["id"], page))
  outputs = (
    {"pages": by_id, "lost": lost}
    | "join lines" >> beam.CoGroupByKey()
    | STAGE >> beam.FlatMap(_without_lost).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped
