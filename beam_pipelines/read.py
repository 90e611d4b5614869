"""Records of WARC and WET files, robust against broken members.

Crawls store one record a gzip member. Each member is decompressed on its own,
with a cap, so a broken one costs itself alone: reading goes on at the next gzip
magic, and what was lost is yielded as a record with a reason.
"""

import dataclasses
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc import warc

MAX_RECORD_BYTES = 1 << 26  # decompressed; larger pages are not read
_MAGIC = b"\x1f\x8b\x08"
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Record:
  """One response, conversion or broken record.

  Attributes:
    url: target address, "" if it could not be read.
    timestamp: crawl time, ISO 8601 in UTC, "" if none.
    body: HTML bytes, or UTF-8 text of a conversion record.
    charset: of the HTTP header, "" if none.
    is_text: whether body is extracted text already (WET).
    reason: why the record gives no page, "" if it does.
  """

  url: str
  timestamp: str
  body: bytes
  charset: str
  is_text: bool
  reason: str


def _broken(reason: str) -> Record:
  return Record("", "", b"", "", False, reason)


def _members(stream: BinaryIO) -> Iterator[bytes | str]:
  """Decompressed gzip members; a string is the reason one is missing."""
  buffer, at_end = b"", False

  def fill(size):
    nonlocal buffer, at_end
    while len(buffer) < size and not at_end:
      block = stream.read(_BLOCK)
      at_end = not block
      buffer += block

  fill(_BLOCK)
  while buffer:
    if not buffer.startswith(_MAGIC):
      found = buffer.find(_MAGIC, 1)
      if found < 0:
        buffer = b"" if at_end else buffer[-2:]
        fill(_BLOCK)
        if at_end and not buffer.startswith(_MAGIC):
          return
        continue
      buffer = buffer[found:]
    inflate = zlib.decompressobj(wbits=31)
    parts, size, consumed, reason = [], 0, b"", ""
    while not inflate.eof:
      if not buffer:
        fill(_BLOCK)
      if not buffer:
        reason = "truncated"
        break
      try:
        part = inflate.decompress(buffer, _BLOCK)
      except zlib.error:
        reason = "bad_gzip"
        break
      consumed += buffer[: len(buffer) - len(inflate.unconsumed_tail)]
      buffer = inflate.unconsumed_tail
      size += len(part)
      if size <= MAX_RECORD_BYTES:
        parts.append(part)
      else:
        # Nothing of it is kept; bytes consumed so far need not be either.
        parts, consumed = [], b""
    if reason:
      # The next record may start inside what this member seemed to hold.
      rest = (consumed + buffer)[len(_MAGIC) :]
      found = rest.find(_MAGIC)
      buffer = rest[found:] if found >= 0 else b""
      yield reason
    else:
      buffer = inflate.unused_data + buffer
      yield b"".join(parts) if size <= MAX_RECORD_BYTES else "too_large"
    fill(_BLOCK)


def _record(record: warc.WarcRecord) -> Record | None:
  """What a WARC record holds; None for kinds that carry no page."""
  is_text = record.record_type == warc.WarcRecordType.conversion
  if not is_text and record.record_type != warc.WarcRecordType.response:
    return None
  url = record.headers.get("WARC-Target-URI", "").strip("<> ")
  timestamp = record.headers.get("WARC-Date", "")
  body, charset, reason = record.reader.read(), "", ""
  if not is_text:
    http = record.http_headers
    status = http.status_code if http else None
    content_type = (record.http_content_type or "").lower()
    charset = record.http_charset or ""
    if status is None:
      reason = "bad_http_header"
    elif status != 200:
      reason = "http_status"
    elif content_type not in ("text/html", "application/xhtml+xml", ""):
      reason = "not_html"
  if not reason:
    if not url:
      reason = "no_url"
    elif not timestamp:
      reason = "no_timestamp"
    elif not body.strip():
      reason = "no_content"
    elif "WARC-Truncated" in record.headers:
      reason = "truncated"
  return Record(
    url, timestamp, b"" if reason else body, charset, is_text, reason
  )


def _parse(data: BinaryIO) -> Iterator[Record]:
  types = warc.WarcRecordType.any_type
  seen = False
  try:
    for record in warc.ArchiveIterator(data, types, parse_http=True):
      seen = True
      result = _record(record)
      if result:
        yield result
  except Exception:  # fastwarc's exceptions share no base class
    yield _broken("bad_record")
    return
  if not seen:
    yield _broken("bad_record")


def read_records(stream: BinaryIO) -> Iterator[Record]:
  """Yields every page record of a WARC or WET stream, broken ones included.

  Args:
    stream: bytes of the file as stored, gzip or plain.
  """
  head = stream.read(len(_MAGIC))
  stream.seek(0)
  if head != _MAGIC:
    yield from _parse(stream)
    return
  for member in _members(stream):
    if isinstance(member, str):
      yield _broken(member)
    else:
      yield from _parse(io.BytesIO(member))
