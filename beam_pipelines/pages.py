"""Stage one: from crawl files to labelled pages, one staged file an input file.

A page is a dict: id ("<file>:<record>"), url, timestamp, text, language (code
or None), language_probability, and drop (None, or [stage, reason]). Every page
record of the input gives one, so nothing is lost without a trace.
"""

import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.metrics import Metrics

from beam_pipelines import extract, langid, read

_REPORT_SECONDS = 5.0


def staged_path(stage_directory: str, input_file: str) -> str:
  """Where the pages of an input file are staged."""
  digest = hashlib.sha256(input_file.encode()).hexdigest()[:16]
  return filesystems.FileSystems.join(
    stage_directory, f"pages-{digest}.jsonl.gz"
  )


def page_of_record(record: read.Record, page_id: str) -> dict:
  """Extracts and identifies one record."""
  page = {
    "id": page_id,
    "url": record.url,
    "timestamp": record.timestamp,
    "text": "",
    "language": None,
    "language_probability": 0.0,
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
  return {
    **page,
    "text": text,
    "language": code,
    "language_probability": round(probability, 6),
  }


def _pages_of_file(input_file: str) -> Iterator[dict]:
  name = hashlib.sha256(input_file.encode()).hexdigest()[:8]
  with filesystems.FileSystems.open(
    input_file,
    compression_type=filesystems.CompressionTypes.UNCOMPRESSED,
  ) as stream:
    for number, record in enumerate(read.read_records(stream)):
      yield page_of_record(record, f"{name}:{number:08d}")


class StagePages(beam.DoFn):
  """Writes the pages of an input file to its staged file, once.

  The staged file gets its name when it is complete, so a run that was killed
  repeats only the files it was in the middle of.
  """

  def __init__(self, stage_directory: str):
    self._stage_directory = stage_directory

  def process(self, input_file: str):
    path = staged_path(self._stage_directory, input_file)
    if not filesystems.FileSystems.exists(path):
      self._write(input_file, path)
    yield path

  def _write(self, input_file: str, path: str) -> None:
    partial = f"{path}.partial"
    started = reported = time.monotonic()
    count = 0
    raw = filesystems.FileSystems.create(
      partial, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
    )
    with (
      raw,
      gzip.GzipFile(
        fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=1
      ) as f,
    ):
      for page in _pages_of_file(input_file):
        f.write(json.dumps(page, ensure_ascii=False).encode() + b"\n")
        count += 1
        reason = page["drop"][1] if page["drop"] else "page"
        Metrics.counter("read", reason).inc()
        now = time.monotonic()
        if now - reported > _REPORT_SECONDS:
          reported = now
          rate = count / (now - started)
          print(
            f"{os.path.basename(input_file)}: {count:,} records, "
            f"{rate:,.0f} records/s",
            flush=True,
          )
    filesystems.FileSystems.rename([partial], [path])


def read_staged(path: str) -> Iterator[dict]:
  """The pages of a staged file."""
  with filesystems.FileSystems.open(
    path, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
  ) as raw:
    with gzip.open(raw, "rt", encoding="utf-8") as f:
      for line in f:
        yield json.loads(line)
