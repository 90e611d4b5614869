"""Reading WARC and WET files that may be damaged.

A crawl file is a chain of gzip members with one record each (or records
without compression). Damage in one must not end the file: reading goes on at
the next place that looks like the start of a record, and what was lost is
yielded as a record with a reason. Since reading can start at any such place,
a file is read in byte ranges, which are what is distributed and restarted.
"""

import dataclasses
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow
from fastwarc import warc

MAX_RECORD_BYTES = 1 << 26  # decompressed; larger pages are not read
_MAX_HEADER_BYTES = 1 << 16
_BLOCK = 1 << 16
_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_VERSION = b"WARC/"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})\r\n", re.IGNORECASE)
ROW_COLUMNS = ("url", "text", "timestamp", "date")
_HTML_TYPES = ("text/html", "application/xhtml+xml", "")


@dataclasses.dataclass(frozen=True)
class Record:
  """One response, conversion or broken record.

  Attributes:
    position: "<byte>.<n>", where in the file: the n-th record of the gzip
      member that starts at the byte. Sorts in file order.
    url: target address, "" if it could not be read.
    timestamp: crawl time, ISO 8601 in UTC, "" if none.
    body: HTML bytes, or UTF-8 text of a conversion record.
    charset: of the HTTP header, "" if none.
    is_text: whether body is extracted text already (WET).
    reason: why the record gives no page, "" if it does.
  """

  position: str
  url: str
  timestamp: str
  body: bytes
  charset: str
  is_text: bool
  reason: str


class _Window:
  """Bytes of a stream from an offset on, read ahead as far as needed."""

  def __init__(self, blocks: Iterator[bytes], offset: int):
    self._blocks = blocks
    self.offset = offset
    self.data = b""

  def fill(self, size: int) -> bool:
    """Reads ahead to `size` bytes; False if the stream ends before."""
    parts, length = [self.data], len(self.data)
    while length < size and (block := next(self._blocks, b"")):
      parts.append(block)
      length += len(block)
    self.data = b"".join(parts)
    return length >= size

  def drop(self, size: int) -> None:
    self.data = self.data[size:]
    self.offset += size

  def seek_marker(self, marker: bytes) -> bool:
    """Drops bytes up to the next marker; False if there is none."""
    while (found := self.data.find(marker)) < 0:
      self.drop(max(0, len(self.data) - len(marker) + 1))
      if not self.fill(len(self.data) + _BLOCK) and marker not in self.data:
        self.drop(len(self.data))
        return False
    self.drop(found)
    return True


def _blocks_of(stream: BinaryIO, start: int) -> Iterator[bytes]:
  stream.seek(start)
  return iter(lambda: stream.read(_BLOCK), b"")


def _inflate(window: _Window) -> Iterator[bytes]:
  """Blocks of the gzip member at the window's start, which moves past it.

  Raises:
    EOFError: if the file ends inside the member.
    zlib.error: if the member is damaged.
  """
  member = zlib.decompressobj(wbits=31)
  while not member.eof:
    window.fill(1)
    block = member.decompress(window.data, _BLOCK)
    rest = member.unused_data if member.eof else member.unconsumed_tail
    if not (block or member.eof or window.data):
      raise EOFError
    window.drop(len(window.data) - len(rest))
    if block:
      yield block


def _starts_record(window: _Window) -> bool:
  """Whether the gzip member at the window's start begins with a WARC record."""
  window.fill(_BLOCK)
  try:
    head = zlib.decompressobj(wbits=31).decompress(window.data, len(_VERSION))
  except zlib.error:
    return False
  return head == _VERSION


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | str]:
  """Records of decompressed bytes; a string is the reason one is missing."""
  window = _Window(blocks, 0)
  while window.fill(1):
    window.fill(_MAX_HEADER_BYTES)
    reason, size = "bad_record", 0
    header_end = window.data.find(b"\r\n\r\n") + 4
    if window.data.startswith(_VERSION) and header_end > 4:
      match = _LENGTH.search(window.data, 0, header_end - 2)
      if match:
        size = header_end + int(match[1])
    if size > MAX_RECORD_BYTES:
      reason = "too_large"
    elif size and not window.fill(size):
      reason = "truncated"
    elif size:
      # Two line ends, or fewer from careless writers, then the next record.
      window.fill(size + 4 + len(_VERSION))
      following = window.data[size : size + 4 + len(_VERSION)].lstrip(b"\r\n")
      if _VERSION.startswith(following[: len(_VERSION)]):
        yield window.data[:size]
        window.drop(size)
        while window.fill(1) and window.data[0] in b"\r\n":
          window.drop(1)
        continue
    yield reason
    window.drop(1)
    if window.seek_marker(b"\r\n" + _VERSION):
      window.drop(2)


def _parse(data: bytes, decode: str) -> warc.WarcRecord | None:
  records = warc.ArchiveIterator(
    io.BytesIO(data),
    warc.WarcRecordType.response | warc.WarcRecordType.conversion,
    parse_http=True,
    auto_decode=decode,
    stream_detect=False,
  )
  return next(iter(records), None)


def _body(data: bytes, record: warc.WarcRecord) -> bytes:
  """The payload without transfer and content encoding.

  Raises:
    OSError: if the payload is not in the encodings that the header names.
  """
  try:
    # Not all of it: a few compressed bytes may stand for gigabytes.
    return record.reader.read(MAX_RECORD_BYTES + 1)
  except OSError:
    # Some crawlers undo the chunks but leave the header that tells of them.
    plain = _parse(data, "none")
    if "Content-Encoding" in plain.http_headers:
      raise
    return plain.reader.read()


def _record(data: bytes, position: str) -> Record | None:
  """What a WARC record holds; None for kinds that carry no page."""
  try:
    record = _parse(data, "all")
  except OSError:
    return _broken(position, "bad_record")
  if record is None:
    return None
  is_text = record.record_type == warc.WarcRecordType.conversion
  url = record.headers.get("WARC-Target-URI", "").strip("<> ")
  timestamp = record.headers.get("WARC-Date", "")
  body, charset, reason = b"", "", ""
  if not is_text:
    http = record.http_headers
    content_type = (record.http_content_type or "").lower()
    charset = record.http_charset or ""
    if http is None:
      reason = "not_http"
    elif http.status_code is None:
      reason = "bad_http_header"
    elif http.status_code != 200:
      reason = "http_status"
    elif content_type not in _HTML_TYPES:
      reason = "not_html"
  if not reason:
    try:
      body = _body(data, record)
    except OSError:
      reason = "bad_http_encoding"
  if not reason:
    if len(body) > MAX_RECORD_BYTES:
      reason = "too_large"
    elif not url:
      reason = "no_url"
    elif not timestamp:
      reason = "no_timestamp"
    elif not body.strip():
      reason = "no_content"
    elif "WARC-Truncated" in record.headers:
      reason = "truncated"
  return Record(
    position, url, timestamp, b"" if reason else body, charset, is_text, reason
  )


def record_of_row(row: dict, wrong: str | None, number: int) -> Record:
  """A row of a data set, text extracted already, as a record.

  Args:
    row: ROW_COLUMNS, some of them; url and text are needed. A corpus that names
      its time "date" (FineWeb) is read too; rows without any are the oldest.
    wrong: why there is no row, None if there is.
    number: of the row in its file.
  """
  position = f"{number:012d}.{0:09d}"
  if wrong:
    return _broken(position, wrong)
  url, text = row.get("url"), row.get("text")
  timestamp = row.get("timestamp") or row.get("date") or ""
  if not isinstance(timestamp, str):
    timestamp = getattr(timestamp, "isoformat", lambda: "")()
  reason = ""
  if not isinstance(text, str):
    reason = "no_text"
  elif not isinstance(url, str) or not url:
    reason = "no_url"
  elif not text.strip():
    reason = "no_content"
  body = b"" if reason else text.encode()
  return Record(
    position,
    url if isinstance(url, str) else "",
    timestamp,
    body,
    "",
    True,
    reason,
  )


def _broken(position: str, reason: str) -> Record:
  return Record(position, "", "", b"", "", False, reason)


def _members(
  stream: BinaryIO, start: int, stop: int
) -> Iterator[tuple[int, bytes | str]]:
  """(offset, record or reason) of the gzip members that start in a range."""
  window = _Window(_blocks_of(stream, start), start)
  if start and not _seek_member(window):
    return
  # The next range skips what does not start a record, so it is told of here.
  while window.fill(1) and (window.offset < stop or not _starts_record(window)):
    offset, blocks, size, reason = window.offset, [], 0, ""
    member = _inflate(window)
    try:
      for block in member:
        blocks.append(block)
        size += len(block)
        if size > MAX_RECORD_BYTES:
          break
    except zlib.error:
      reason = "bad_gzip"
    except EOFError:
      reason = "truncated"
    if not reason:
      # A whole file in one member does not fit in memory: then `member` goes
      # on, and damage in it shows when its records are read.
      records = _split(itertools.chain(blocks, member))
      while True:
        try:
          yield offset, next(records)
        except StopIteration:
          break
        except zlib.error:
          reason = "bad_gzip"
          break
        except EOFError:
          reason = "truncated"
          break
    if reason:
      yield offset, reason
      # The next record may start inside what this member seemed to hold.
      window = _Window(_blocks_of(stream, offset + 1), offset + 1)
      if not _seek_member(window):
        return


def _seek_member(window: _Window) -> bool:
  """Moves to the next gzip member that begins with a record."""
  while window.seek_marker(_MAGIC):
    if _starts_record(window):
      return True
    window.drop(1)
  return False


def _stored(
  stream: BinaryIO, start: int, stop: int
) -> Iterator[tuple[int, bytes | str]]:
  """(offset of the member, record or reason) of a gzip, zstd or plain file."""
  stream.seek(0)
  head = stream.read(_BLOCK)
  if not head.startswith((_VERSION, _ZSTD_MAGIC)) and _MAGIC in head:
    yield from _members(stream, start, stop)
  elif start == 0:
    stream.seek(0)
    if head.startswith(_ZSTD_MAGIC):
      stream = pyarrow.input_stream(stream, compression="zstd")
    blocks = iter(lambda: stream.read(_BLOCK), b"")
    try:
      for data in _split(blocks):
        yield 0, data
    except OSError:
      # A frame that is cut or damaged: what stands behind it is lost.
      if not head.startswith(_ZSTD_MAGIC):
        raise
      yield 0, "truncated"


def read_records(stream: BinaryIO, start: int, stop: int) -> Iterator[Record]:
  """Yields the page records that start in a byte range, broken ones included.

  Ranges that cover a file give each record once. A file that is plain or zstd
  belongs to the range that starts at 0.

  Args:
    stream: seekable bytes of the file as stored, gzip, zstd or plain.
    start: first byte of the range.
    stop: byte after the range.
  """
  member, number = -1, 0
  for offset, data in _stored(stream, start, stop):
    number = number + 1 if offset == member else 0
    member = offset
    position = f"{offset:012d}.{number:09d}"
    if isinstance(data, str):
      yield _broken(position, data)
    elif record := _record(data, position):
      yield record


def count_types(stream: BinaryIO, stop: int) -> dict[str, int]:
  """Number of records by WARC-Type in the first `stop` bytes of a file."""
  counts: dict[str, int] = {}
  for _, data in _stored(stream, 0, stop):
    kind = "unreadable"
    if not isinstance(data, str):
      match = re.search(rb"\r\nwarc-type:[ \t]*([a-z]+)", data, re.IGNORECASE)
      kind = match[1].decode() if match else "untyped"
    counts[kind] = counts.get(kind, 0) + 1
  return counts
