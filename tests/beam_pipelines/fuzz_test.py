"""Crawl files damaged in eleven ways: nothing crashes, hangs or is lost.

One record of a file is damaged; the others must all be accounted for.
"""

import gzip
import json
import random
import resource
import subprocess
import sys

import pytest

from beam_pipelines import corpus, pages

RECORDS = 8
_BOMB = bytes(1 << 28)
_MAX_BYTES = 1_500_000_000


def _flip(rng, data):
  data = bytearray(data)
  for _ in range(rng.randint(1, 40)):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def _header(rng, data, name, value):
  """The record with another value of a header, WARC's or HTTP's."""
  lines = data.split(b"\r\n")
  at = [i for i, line in enumerate(lines) if line.lower().startswith(name)]
  if at:
    lines[rng.choice(at)] = name + b": " + value
  return b"\r\n".join(lines)


def _damage(kind, rng, record, bomb):
  """Bytes to stand in a gzip file in the place of a record."""
  if kind == "bits":
    return _flip(rng, gzip.compress(record, mtime=0))
  if kind == "bits before compression":
    return gzip.compress(_flip(rng, record), mtime=0)
  if kind == "cut":
    member = gzip.compress(record, mtime=0)
    return member[: rng.randrange(len(member))]
  if kind == "rubbish":
    return rng.randbytes(rng.randint(1, 5000))
  if kind == "length":
    wrong = rng.choice([0, 1, 17, 10**6, 10**17, -5, "x", "", 10**30])
    value = str(wrong).encode()
    return gzip.compress(_header(rng, record, b"content-length", value))
  if kind == "giant header":
    value = rng.choice([b"x", b"x\r\ny: ", b"\xff"]) * rng.randint(10**4, 10**6)
    name = rng.choice([b"content-type", b"warc-date", b"warc-target-uri"])
    return gzip.compress(_header(rng, record, name, value))
  if kind == "charset":
    name = rng.choice([b"utf-7", b"idna", b"x" * 999, b"\xe2\x82", b"utf-16"])
    value = b"text/html; charset=" + name
    return gzip.compress(_header(rng, record, b"content-type", value))
  if kind == "bomb":
    return bomb
  if kind == "encoding":
    head, _, body = record.partition(b"\r\n\r\n")
    http, _, body = body.partition(b"\r\n\r\n")
    body = rng.choice([gzip.compress(_BOMB[: 1 << 27], 1), b"\x1f\x8b" + body])
    http += b"\r\nContent-Encoding: gzip"
    payload = http + b"\r\n\r\n" + body
    size = str(len(payload)).encode()
    head = head[: head.lower().rindex(b"content-length")]
    head += b"Content-Length: " + size
    return gzip.compress(head + b"\r\n\r\n" + payload + b"\r\n\r\n", 1)
  if kind == "deep":
    tag = rng.choice([b"<div>", b"<b><i>", b"<table><tr><td>", b"<!--", b"&#"])
    return gzip.compress(record.replace(b"<p>", tag * rng.randint(10, 10**5)))
  raise ValueError(kind)


KINDS = (
  *("bits", "bits before compression", "cut", "rubbish", "length"),
  *("giant header", "charset", "bomb", "encoding", "deep"),
)


def _write_files(crawl, directory, number, seed):
  """Writes damaged crawls; returns URLs of the records that are not."""
  directory.mkdir()
  rng = random.Random(seed)
  codes = list(crawl.SENTENCES)
  intact, bombs = set(), {}
  for n in range(number):
    kind = KINDS[n % len(KINDS)]
    damaged = rng.randrange(RECORDS)
    members = []
    for i in range(RECORDS):
      code = rng.choice(codes)
      url = f"http://{n}.example/{i}"
      lines = crawl.paragraphs(code, f"{n}.{i}", count=rng.randint(1, 4))
      record = crawl.response(url, crawl.html_page(lines))
      if i != damaged:
        members.append(gzip.compress(record, mtime=0))
        intact.add(url)
        continue
      if kind == "bomb" and not bombs:
        head = record.partition(b"\r\n\r\n")[0].lower()
        head = head[: head.rindex(b"content-length")].replace(
          b"warc/", b"WARC/"
        )
        size = str(len(_BOMB)).encode()
        head += b"content-length: " + size + b"\r\n\r\n"
        bombs["member"] = gzip.compress(head + _BOMB, 1)
      members.append(_damage(kind, rng, record, bombs.get("member")))
    content = b"".join(members)
    if n % 50 == 49:  # the whole file is cut
      cut = rng.randrange(len(content))
      ends = [len(b"".join(members[: i + 1])) for i in range(RECORDS)]
      lost = {i for i, end in enumerate(ends) if end > cut}
      intact -= {f"http://{n}.example/{i}" for i in lost}
      content = content[:cut]
    (directory / f"{n:04d}.warc.gz").write_bytes(content)
  return intact


def test_damage_in_one_record_costs_no_other(crawl, tmp_path):
  intact = _write_files(crawl, tmp_path / "crawl", 60, seed=0)
  found = []
  for n, path in enumerate(sorted((tmp_path / "crawl").iterdir())):
    for part in pages.parts_of(n, str(path), path.stat().st_size, 1 << 22):
      found += pages.read_pages(part, second_opinion=False)
  urls = [page["url"] for page in found]
  assert intact <= set(urls)
  assert len({page["id"] for page in found}) == len(found)
  wrong = [page["drop"][1] for page in found if page["drop"]]
  assert {"bad_gzip", "too_large", "truncated"} <= set(wrong)


@pytest.mark.slow
def test_a_thousand_damaged_files_through_the_pipeline(crawl, tmp_path):
  intact = _write_files(crawl, tmp_path / "crawl", 1000, seed=1)
  output = tmp_path / "corpus"
  subprocess.run(
    [
      *(sys.executable, "-m", "beam_pipelines.mc4"),
      *(f"--input={tmp_path}/crawl/*", f"--output={output}"),
      "--validation_modulus=1000",
    ],
    check=True,
    timeout=1800,
  )
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
  assert peak < _MAX_BYTES
  rows = [
    json.loads(line)
    for path in sorted((output / "decisions").glob("*.gz"))
    for line in gzip.open(path, "rt", encoding="utf-8")
  ]
  urls = [row["url"] for row in rows]
  assert intact <= set(urls)
  counts = corpus.read_json(str(output / "counts.json"))
  funnels = counts["funnel"].values()
  assert sum(funnel["read"]["in"] for funnel in funnels) == len(rows)
  kept = sum(funnel["line_dedup"]["kept"] for funnel in funnels)
  dropped = sum(
    n
    for funnel in funnels
    for stage in funnel.values()
    for n in stage["dropped"].values()
  )
  assert kept + dropped == len(rows)
  print(f"{len(rows)} records, {kept} kept, peak {peak / 1e6:.0f} MB")
