"""Builds the sample crawl, a WARC file and its truth table, from `sources/`.

    python tests/testdata/crawl/build.py --output sample_crawl.warc.gz

Writes the WARC and, beside it, the same name ending in `.tsv`: one row a
response record. README.md says what the pages are. The result depends on the
committed sources only: seeds and dates are fixed and no clock is read.
"""

import argparse
import base64
import datetime
import hashlib
import pathlib
import re
import uuid
import zlib

import captures
import pages

FOLDER = pathlib.Path(__file__).parent
FIRST_CAPTURE = datetime.datetime(2024, 5, 6, 4, 0, 0)
SECONDS_BETWEEN_CAPTURES = 37
TRUTH_COLUMNS = ("url", "language", "kind", "charset", "note")


def record(
  kind: str, *, url: str, date: str, content_type: str, block: bytes
) -> bytes:
  """One WARC 1.0 record; its id is a function of kind, URL and date."""
  identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url} {date}")
  digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
  target = [f"WARC-Target-URI: {url}"] if url else []
  lines = [
    "WARC/1.0",
    f"WARC-Type: {kind}",
    f"WARC-Record-ID: <urn:uuid:{identity}>",
    f"WARC-Date: {date}",
    *target,
    f"WARC-Block-Digest: sha1:{digest}",
    f"Content-Type: {content_type}",
    f"Content-Length: {len(block)}",
    "",
    "",
  ]
  return "\r\n".join(lines).encode("utf-8") + block + b"\r\n\r\n"


def member(data: bytes) -> bytes:
  """A gzip member with `data`, without a file name or a time."""
  return zlib.compress(data, 9, wbits=31)


def cut_member(data: bytes) -> bytes:
  """The first half of `data`, and then the file ends inside the member.

  Flushed at the cut, so that it decompresses to the same bytes with any zlib.
  """
  compressor = zlib.compressobj(9, wbits=31)
  half = compressor.compress(data[: len(data) // 2])
  return half + compressor.flush(zlib.Z_SYNC_FLUSH)


def warc_records(crawl: list[captures.Capture]) -> list[bytes]:
  """A warcinfo record, then a request and a response for each capture."""
  info = "software: build.py\r\nformat: WARC File Format 1.0\r\n"
  records = [
    record(
      "warcinfo",
      url="",
      date=f"{FIRST_CAPTURE.isoformat()}Z",
      content_type="application/warc-fields",
      block=info.encode("ascii"),
    )
  ]
  for i, capture in enumerate(crawl):
    moment = FIRST_CAPTURE + datetime.timedelta(
      days=-capture.age_days, seconds=SECONDS_BETWEEN_CAPTURES * (i + 1)
    )
    date = f"{moment.isoformat()}Z"
    host, path = re.fullmatch(r"https?://([^/]+)(/.*)", capture.url).groups()
    request = (
      f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sample\r\n\r\n"
    )
    for kind, block in (
      ("request", request.encode("ascii")),
      ("response", capture.http),
    ):
      records.append(
        record(
          kind,
          url=capture.url,
          date=date,
          content_type=f"application/http; msgtype={kind}",
          block=block,
        )
      )
  return records


def build(output: pathlib.Path):
  """Writes the WARC to `output` and the truth table beside it.

  Raises:
    ValueError: if `output` does not end in .warc.gz, or a source is wrong.
  """
  if not output.name.endswith(".warc.gz"):
    raise ValueError(f"--output is {str(output)!r}, must end in .warc.gz")
  crawl = captures.all_captures(pages.read_sites(FOLDER / "sources"))
  records = warc_records(crawl)
  members = [member(r) for r in records[:-1]] + [cut_member(records[-1])]
  rows = [[getattr(c, name) for name in TRUTH_COLUMNS] for c in crawl]
  table = "".join("\t".join(r) + "\n" for r in [list(TRUTH_COLUMNS)] + rows)
  output.write_bytes(b"".join(members))
  truth = output.with_name(output.name.removesuffix(".warc.gz") + ".tsv")
  truth.write_text(table, encoding="utf-8")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="WARC file to write, ending in .warc.gz; the truth table goes beside",
  )
  build(parser.parse_args().output)


if __name__ == "__main__":
  main()
