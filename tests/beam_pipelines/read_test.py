import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import read


def read_all(data, part_bytes=1 << 40):
  found = []
  for start in range(0, max(len(data), 1), part_bytes):
    found += read.read_records(io.BytesIO(data), start, start + part_bytes)
  return found


def outline(records):
  return [(r.url, r.reason) for r in records]


@pytest.fixture
def responses(crawl):
  """A record for each of ten languages."""
  return [
    crawl.response(
      f"http://{code[:3]}.example/", crawl.html_page(crawl.paragraphs(code, i))
    )
    for i, code in enumerate(crawl.SENTENCES)
  ]


def test_pages_come_in_order_with_what_the_headers_say(crawl):
  data = crawl.archive(
    [
      crawl.record("warcinfo", "", b"software: test"),
      crawl.response(
        "http://a.example/ü", "<p>x", content_type="text/html; charset=KOI8-R"
      ),
      crawl.record("request", "http://a.example/", b"GET / HTTP/1.1\r\n\r\n"),
      crawl.record("conversion", "http://b.example/", "текст".encode()),
    ]
  )
  first, second = read_all(data)
  assert (first.url, first.body, first.charset, first.is_text) == (
    "http://a.example/ü",
    b"<p>x",
    "koi8-r",
    False,
  )
  assert (second.body.decode(), second.is_text) == ("текст", True)
  assert first.timestamp == second.timestamp == "2024-05-06T04:00:00Z"
  assert first.position < second.position


def test_records_without_a_page_carry_the_reason(crawl):
  r = crawl.response
  cases = {
    "http_status": r("http://x.example/", "<p>gone", status="404 Not Found"),
    "not_html": r("http://x.example/", "%PDF", content_type="application/pdf"),
    "no_content": r("http://x.example/", " \n"),
    "no_url": r("", "<p>x"),
    "no_timestamp": r("http://x.example/", "<p>x", date=""),
    "bad_http_header": r("http://x.example/", "<p>x", status="rubbish"),
    "bad_http_encoding": r(
      "http://x.example/", b"\x1f\x8bno", extra="Content-Encoding: gzip\r\n"
    ),
    "not_http": crawl.record(
      "response", "dns:x.example", b"x. 1 IN A", content_type="text/dns"
    ),
    "truncated": r("http://x.example/", "<p>x").replace(
      b"WARC-Date", b"WARC-Truncated: length\r\nWARC-Date"
    ),
  }
  for reason, data in cases.items():
    assert [x.reason for x in read_all(crawl.archive([data]))] == [reason]


def test_http_encodings_are_undone(crawl):
  chunks = b"4\r\n<p>o\r\n2\r\nne\r\n0\r\n\r\n"
  chunked = "Transfer-Encoding: chunked\r\n"
  zipped = "Content-Encoding: gzip\r\n"
  data = crawl.archive(
    [
      crawl.response("http://a.example/", chunks, extra=chunked),
      crawl.response("http://b.example/", gzip.compress(b"two"), extra=zipped),
      # The crawler joined the chunks but kept the header.
      crawl.response("http://c.example/", b"<p>three", extra=chunked),
    ]
  )
  assert [r.body for r in read_all(data)] == [b"<p>one", b"two", b"<p>three"]


def test_every_layout_of_a_file_gives_the_same_pages(crawl, responses):
  layouts = {
    "member a record": crawl.archive(responses),
    "one member": gzip.compress(b"".join(responses)),
    "no compression": b"".join(responses),
  }
  expected = outline(read_all(layouts["member a record"]))
  assert len(expected) == 10 and not any(reason for _, reason in expected)
  for name, data in layouts.items():
    assert outline(read_all(data)) == expected, name


def test_a_file_in_one_member_may_be_larger_than_a_record(
  crawl, responses, monkeypatch
):
  data = gzip.compress(b"".join(responses))
  expected = outline(read_all(data))
  monkeypatch.setattr(read, "MAX_RECORD_BYTES", max(map(len, responses)))
  monkeypatch.setattr(read, "_BLOCK", 500)
  assert outline(read_all(data)) == expected


@pytest.mark.parametrize("compressed", [True, False])
def test_a_record_over_the_limit_is_counted_and_skipped(
  crawl, responses, monkeypatch, compressed
):
  limit = max(map(len, responses))
  large = crawl.response("http://large.example/", "x" * limit)
  records = [*responses[:3], large, *responses[3:]]
  monkeypatch.setattr(read, "MAX_RECORD_BYTES", limit)
  data = crawl.archive(records) if compressed else b"".join(records)
  reasons = [r.reason for r in read_all(data)]
  assert reasons == [""] * 3 + ["too_large"] + [""] * 7


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_costs_only_the_record_it_is_in(data):
  members = _members()
  damaged = data.draw(st.integers(0, len(members) - 1))
  member = bytearray(members[damaged])
  position = data.draw(st.integers(0, len(member) - 1))
  member[position] ^= 1 << data.draw(st.integers(0, 7))
  file = b"".join([*members[:damaged], bytes(member), *members[damaged + 1 :]])
  found = read_all(file)
  assert len(found) == len(members)
  clean = read_all(b"".join(members))
  for number, (record, before) in enumerate(zip(found, clean)):
    if number != damaged:
      assert record == before
    else:  # some bits of the gzip header mean nothing
      assert record.reason or record.body == before.body


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_parts_of_any_size_give_each_record_once(data):
  """Also when some bytes are damaged, at a part's edge too."""
  file = bytearray(b"".join(_members()))
  for _ in range(data.draw(st.integers(0, 3))):
    position = data.draw(st.integers(0, len(file) - 1))
    file[position] ^= 0xFF
  part_bytes = data.draw(st.integers(50, len(file)))
  assert read_all(bytes(file), part_bytes) == read_all(bytes(file))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_cut_file_gives_the_records_before_the_cut(data):
  members = _members()
  file = b"".join(members)
  length = data.draw(st.integers(1, len(file)))
  ends = [sum(map(len, members[: i + 1])) for i in range(len(members))]
  whole = sum(end <= length for end in ends)
  found = read_all(file[:length])
  assert found[:whole] == read_all(file)[:whole]
  lost = [r.reason for r in found[whole:]]
  assert len(lost) == (length not in ends)
  # Fewer bytes than a gzip header do not even tell that it is one.
  assert set(lost) <= {"truncated", "bad_gzip", "bad_record"}


def test_a_wrong_length_without_compression_costs_one_record(crawl, responses):
  good = b"".join(responses)
  for wrong in (b"7", b"999999", b"99999999999"):
    head, length, rest = responses[2].partition(b"Content-Length: ")
    broken = head + length + wrong + rest[rest.index(b"\r\n") :]
    data = b"".join([*responses[:2], broken, *responses[3:]])
    found = read_all(data)
    assert [r.reason == "" for r in found] == [True] * 2 + [False] + [True] * 7
    intact = [r.body for r in found if not r.reason]
    assert set(intact) < {r.body for r in read_all(good)}


def test_rubbish_between_and_after_records_is_counted(crawl, responses):
  members = [gzip.compress(r, mtime=0) for r in responses[:2]]
  data = members[0] + b"\0" * 100_000 + members[1] + b"\0" * 3
  reasons = [r.reason for r in read_all(data)]
  assert reasons == ["", "bad_gzip", "", "bad_gzip"]


def test_types_of_records_are_counted(crawl, responses):
  data = crawl.archive(
    [crawl.record("warcinfo", "", b"x"), *responses[:2]]
  ) + gzip.compress(b"WARC/1.0\r\nnonsense")
  types = {"warcinfo": 1, "response": 2, "unreadable": 1}
  assert read.count_types(io.BytesIO(data), len(data)) == types
  assert read.count_types(io.BytesIO(b""), 0) == {}


def _members():
  """Ten small members; hypothesis forbids fixtures made once a test."""
  return [
    gzip.compress(
      b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Date: 2024-05-06T04:00:00Z\r\n"
      b"WARC-Target-URI: http://%d.example/\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
      % (i, len(body), body),
      mtime=0,
    )
    for i, body in enumerate(
      f"{i} мир שלום नमस्ते 世界 안녕 สวัสดี {i * i}".encode() for i in range(10)
    )
  ]
