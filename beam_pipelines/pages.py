"""Stage one: from crawl files to labelled pages, staged in parts on disk.

A page is a dict: id ("<input>.<byte or row>.<n>", unique, in order of the input),
url, timestamp, text, language (code or None), language_probability, script_share
(of the letters, in the language's script), second_agrees (CLD2: true, false, or
None for a language it does not know) if wanted, and drop (None, or [stage,
reason]). Every page record of the input gives one, so nothing
is lost without a trace.
"""

import gzip
import json
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.metrics import Metrics

from beam_pipelines import extract, langid, read, row_files
from mlm.languages import registry
from mlm.text import scripts

_RAW = filesystems.CompressionTypes.UNCOMPRESSED
_REPORT_SECONDS = 5.0


class Part(NamedTuple):
  """A byte range of an input file, the unit of work and of restarting."""

  number: int  # of the file in the list of inputs
  path: str
  start: int
  stop: int


def parts_of(number: int, path: str, size: int, part_bytes: int) -> list[Part]:
  """Divides a file of `size` bytes; a file of rows is one part."""
  if row_files.is_row_file(path):
    part_bytes = max(size, 1)
  starts = range(0, max(size, 1), part_bytes)
  return [Part(number, path, start, start + part_bytes) for start in starts]


def staged_path(directory: str, part: Part) -> str:
  """Where the pages of a part are staged."""
  name = f"pages-{part.number:07d}-{part.start:014d}.jsonl.gz"
  return filesystems.FileSystems.join(directory, name)


def page_of_record(
  record: read.Record, page_id: str, *, second_opinion: bool
) -> dict:
  """Extracts and identifies one record."""
  page = {
    "id": page_id,
    "url": record.url,
    "timestamp": record.timestamp,
    "text": "",
    "language": None,
    "language_probability": 0.0,
    "script_share": 0.0,
    "drop": None,
  }
  if record.reason:
    return {**page, "drop": ["read", record.reason]}
  try:
    text = extract.extract_text(record)
  except Exception:  # the HTML parser's errors share no base class
    return {**page, "drop": ["extract", "parse_error"]}
  if not text:
    return {**page, "drop": ["extract", "empty"]}
  code, probability = langid.identify(text)
  page = {
    **page,
    "text": text,
    "language": code,
    "language_probability": round(probability, 6),
  }
  if code:
    share = scripts.script_share(text, registry.get(code).script)
    page["script_share"] = round(share, 6)
    if second_opinion:
      page["second_agrees"] = langid.second_agrees(text, code)
  return page


def read_pages(part: Part, *, second_opinion: bool) -> Iterator[dict]:
  """The pages of a part, dropped ones included."""
  for record in _read_part(part):
    yield page_of_record(
      record,
      f"{part.number:07d}.{record.position}",
      second_opinion=second_opinion,
    )


def _read_part(part: Part) -> Iterator[read.Record]:
  if row_files.is_row_file(part.path):
    rows = row_files.read_rows(part.path, read.ROW_COLUMNS)
    for number, (row, wrong) in enumerate(rows):
      yield read.record_of_row(row, wrong, number)
    return
  with filesystems.FileSystems.open(part.path, compression_type=_RAW) as stream:
    yield from read.read_records(stream, part.start, part.stop)


class StagePages(beam.DoFn):
  """Writes the pages of a part to its staged file, once.

  The staged file gets its name when it is complete, so a run that was killed
  repeats only the parts it was in the middle of.
  """

  def __init__(self, directory: str, *, second_opinion: bool):
    self._directory = directory
    self._second_opinion = second_opinion

  def setup(self):
    langid.identify("loads the model")
    self._count = 0
    self._started = self._reported = time.monotonic()

  def process(self, part: Part):
    path = staged_path(self._directory, part)
    if not filesystems.FileSystems.exists(path):
      # A runner may try a part twice at a time: the names differ.
      partial = f"{path}.{uuid.uuid4().hex}.partial"
      with (
        filesystems.FileSystems.create(partial, compression_type=_RAW) as raw,
        gzip.GzipFile(
          fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=1
        ) as f,
      ):
        for page in read_pages(part, second_opinion=self._second_opinion):
          self._report(part, page)
          f.write(json.dumps(page, ensure_ascii=False).encode() + b"\n")
          stage, reason = page["drop"] or ("extract", "page")
          Metrics.counter(stage, reason).inc()
      filesystems.FileSystems.rename([partial], [path])
    yield path

  def _report(self, part: Part, page: dict) -> None:
    """Prints every few seconds how far this worker is."""
    self._count += 1
    now = time.monotonic()
    if now - self._reported > _REPORT_SECONDS:
      self._reported = now
      rate = self._count / (now - self._started)
      print(
        f"{self._count:,} pages, {rate:,.0f} pages/s, now at byte "
        f"{int(page['id'].split('.')[1]):,} of {part.path}",
        flush=True,
      )


def read_staged(path: str) -> Iterator[dict]:
  """The pages of a staged file."""
  with filesystems.FileSystems.open(path, compression_type=_RAW) as raw:
    with gzip.open(raw, "rt", encoding="utf-8", newline="\n") as f:
      for line in f:
        yield json.loads(line)
