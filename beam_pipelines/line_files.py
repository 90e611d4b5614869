"""Lines of files of lines: plain, gzip or zstd, on any of Beam's file systems."""

import gzip
import io
import zlib
from collections.abc import Iterator

import pyarrow
from apache_beam.io import filesystems

_RAW = filesystems.CompressionTypes.UNCOMPRESSED


def _open(path: str):
  raw = filesystems.FileSystems.open(path, compression_type=_RAW)
  if path.endswith(".gz"):
    return gzip.GzipFile(fileobj=raw)
  if path.endswith(".zst"):
    # Arrow's reader: it takes several frames, and tells when one is cut.
    return io.BufferedReader(pyarrow.input_stream(raw, compression="zstd"))
  return raw


def read_lines(
  path: str, *, max_bytes: int
) -> Iterator[tuple[bytes, str | None]]:
  """Lines without their line break, and what is wrong with each.

  Memory is bounded by max_bytes, whatever the file expands to.

  Args:
    path: compressed if its name ends in .gz or .zst.
    max_bytes: a longer line comes as b"", "too_long".

  Yields:
    (line, None); or (b"", reason) with too_long, or truncated where a
    compressed file is cut or damaged: what stands behind is lost.
  """
  with _open(path) as f:
    while True:
      try:
        line = f.readline(max_bytes + 1)
        too_long = len(line) > max_bytes and not line.endswith(b"\n")
        while too_long and (rest := f.readline(max_bytes)):
          if rest.endswith(b"\n"):
            break
      except (EOFError, OSError, zlib.error):
        yield b"", "truncated"
        return
      if not line:
        return
      yield (b"", "too_long") if too_long else (line.removesuffix(b"\n"), None)
