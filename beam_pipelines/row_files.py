"""Rows of files of records: JSON lines (plain, gzip, zstd) and Parquet."""

import json
from collections.abc import Iterator, Sequence

import pyarrow
from apache_beam.io import filesystems
from pyarrow import parquet

from beam_pipelines import line_files

MAX_ROW_BYTES = 1 << 26
_JSON = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
_BATCH = 64  # rows of Parquet read at a time


def is_row_file(path: str) -> bool:
  """Whether the name says JSON lines or Parquet."""
  return path.endswith((*_JSON, ".parquet"))


def read_rows(
  path: str, columns: Sequence[str]
) -> Iterator[tuple[dict, str | None]]:
  """Rows of a file, and what is wrong with each.

  Args:
    path: on any of Beam's file systems.
    columns: to read; a row may lack some.

  Yields:
    ({column: value}, None); or ({}, reason) with bad_json (not a JSON object),
    not_utf8, too_long (over 64 MiB), truncated (what stands behind is lost) or
    bad_parquet (the file, or its rest, cannot be read).
  """
  if path.endswith(".parquet"):
    yield from _parquet_rows(path, columns)
    return
  for line, wrong in line_files.read_lines(path, max_bytes=MAX_ROW_BYTES):
    yield ({}, wrong) if wrong else _parse(line, columns)


def _parse(line: bytes, columns) -> tuple[dict, str | None]:
  try:
    row = json.loads(line.decode())
  except UnicodeDecodeError:
    return {}, "not_utf8"
  except (ValueError, RecursionError):
    return {}, "bad_json"
  if not isinstance(row, dict):
    return {}, "bad_json"
  return {name: _valid(row[name]) for name in columns if name in row}, None


def _valid(value):
  """Half a surrogate pair, which JSON can escape, is no character."""
  if isinstance(value, str):
    return value.encode(errors="replace").decode()
  return value


def _parquet_rows(path, columns):
  raw = filesystems.CompressionTypes.UNCOMPRESSED
  with filesystems.FileSystems.open(path, compression_type=raw) as stream:
    try:
      file = parquet.ParquetFile(stream)
      found = [name for name in columns if name in file.schema_arrow.names]
      for batch in file.iter_batches(batch_size=_BATCH, columns=found):
        for row in batch.to_pylist():
          yield row, None
    except (pyarrow.ArrowException, OSError):
      yield {}, "bad_parquet"
