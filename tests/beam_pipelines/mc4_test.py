"""The mC4 pipeline on small WARCs made here: rules, accounting, restarts."""

import gzip
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from beam_pipelines import mc4, read
from beam_pipelines.dedup import lines as line_dedup
from beam_pipelines.filters import bad_words, length
from mlm.text import documents, normalize

ROOT = pathlib.Path(__file__).parents[2]

# One sentence a language, repeated with numbers to make long lines.
SENTENCES = {
  "eng_Latn": "The old baker opens the door of the shop at dawn on day {}. ",
  "rus_Cyrl": "Старый пекарь открывает дверь лавки на рассвете дня {}. ",
  "ell_Grek": "Ο γέρος φούρναρης ανοίγει την πόρτα το πρωί της ημέρας {}. ",
  "hin_Deva": "बूढ़ा नानबाई दिन {} की सुबह अपनी दुकान का दरवाज़ा खोलता है। ",
  "tha_Thai": "คนทำขนมปังชราเปิดประตูร้านตอนเช้าตรู่ของวันที่ {} ทุกวัน ",
  "heb_Hebr": "האופה הזקן פותח את דלת החנות עם שחר ביום {}. ",
  "kor_Hang": "늙은 제빵사는 {}일 새벽에 가게 문을 열고 빵을 굽는다. ",
}


def _paragraphs(code, page, count=4):
  return [
    "".join(SENTENCES[code].format(1000 * page + 10 * p + i) for i in range(8))
    for p in range(count)
  ]


def _html(paragraphs):
  body = "".join(f"<p>{p}</p>" for p in paragraphs)
  return f"<html><body><main><article>{body}</article></main></body></html>"


def _record(
  url,
  payload,
  date="2026-05-01T00:00:00Z",
  status="200 OK",
  content_type="text/html; charset=utf-8",
):
  http = (
    f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    + payload
  )
  head = (
    "WARC/1.0\r\nWARC-Type: response\r\n"
    f"WARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
    f"WARC-Record-ID: <urn:uuid:{abs(hash((url, date))):032x}>\r\n"
    "Content-Type: application/http; msgtype=response\r\n"
    f"Content-Length: {len(http)}\r\n\r\n"
  ).encode()
  return gzip.compress(head + http + b"\r\n\r\n", mtime=0)


def _pages():
  """(url, html, extra arguments): good pages and each kind of bad one."""
  pages = [
    (f"http://{code[:3]}.example/{n}", _html(_paragraphs(code, n)), {})
    for code in SENTENCES
    for n in range(3)
  ]
  english = _paragraphs("eng_Latn", 50)
  pages += [
    ("http://a.example/old/", _html(english), {}),
    (
      "https://www.a.example/old?utm_source=x",
      _html(english),
      {"date": "2026-06-01T00:00:00Z"},
    ),
    ("http://copy.example/", _html(english), {}),
    ("http://short.example/", _html(["The cat sat on the mat today."]), {}),
    ("http://gone.example/", "<p>no</p>", {"status": "404 Not Found"}),
    ("http://image.example/", "\x89PNG", {"content_type": "image/png"}),
    ("http://empty.example/", "<html><body></body></html>", {}),
    (
      "http://bad.example/",
      _html([p + "grubblefrotz." for p in _paragraphs("eng_Latn", 60)]),
      {},
    ),
  ]
  return pages


def _warc(path, pages):
  with open(path, "wb") as f:
    for url, html, extra in pages:
      f.write(_record(url, html.encode(), **extra))
  return path


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
  return _warc(tmp_path_factory.mktemp("crawl") / "crawl.warc.gz", _pages())


@pytest.fixture(scope="module")
def word_lists(tmp_path_factory):
  folder = tmp_path_factory.mktemp("words")
  (folder / "en").write_text("grubblefrotz\n")
  return folder


def _arguments(crawl, output, word_lists, *more):
  return [
    f"--input={crawl}",
    f"--output={output}",
    "--validation_modulus=3",
    f"--bad_words={word_lists}",
    *more,
  ]


@pytest.fixture(scope="module")
def corpus(crawl, word_lists, tmp_path_factory):
  output = tmp_path_factory.mktemp("built") / "corpus"
  mc4.run(_arguments(crawl, output, word_lists))
  return output


def _tree(corpus):
  return {
    str(path.relative_to(corpus)): path.read_bytes()
    for path in sorted(corpus.rglob("*"))
    if path.is_file() and path.name != "manifest.json"
  }


def _decisions(corpus):
  rows = []
  for path in sorted((corpus / "decisions").iterdir()):
    with gzip.open(path, "rt") as f:
      rows += [json.loads(line) for line in f]
  return rows


def test_every_record_has_one_decision_with_its_reason(corpus):
  rows = _decisions(corpus)
  assert sorted(r["url"] for r in rows) == sorted(u for u, _, _ in _pages())
  reason = {r["url"]: f"{r['stage']}.{r['reason']}" for r in rows}
  assert reason["http://gone.example/"] == "read.http_status"
  assert reason["http://image.example/"] == "read.not_html"
  assert reason["http://empty.example/"] == "extract.empty"
  assert reason["http://a.example/old/"] == "url_dedup.older_copy"
  assert reason["http://bad.example/"] == "bad_words.bad_word"
  assert reason["http://short.example/"].startswith(("line_length", "langid"))
  copies = ["https://www.a.example/old?utm_source=x", "http://copy.example/"]
  assert sorted(reason[u] for u in copies) == [
    ".",
    "line_dedup.all_lines_duplicate",
  ]
  for code in SENTENCES:
    assert reason[f"http://{code[:3]}.example/0"] == "."


def test_counts_equal_a_recount_of_the_shards(corpus):
  counts = documents.read_counts(corpus)
  assert set(counts["languages"]) == set(SENTENCES)
  for code, splits in counts["languages"].items():
    for split, expected in splits.items():
      docs = list(documents.read_documents(corpus, code, split))
      assert expected["documents"] == len(docs)
      assert expected["characters"] == sum(len(d.text) for d in docs)
      assert expected["bytes"] == sum(len(d.text.encode()) for d in docs)
      assert all(d.language == code for d in docs)


def test_funnel_adds_up_and_ends_at_what_is_kept(corpus):
  counts = documents.read_counts(corpus)
  total = 0
  for code, stages in counts["funnel"].items():
    previous = None
    for name in counts["stages"]:
      row = stages[name]
      assert row["in"] == row["kept"] + sum(row["dropped"].values())
      assert previous is None or row["in"] == previous
      previous = row["kept"]
    total += stages[counts["stages"][0]]["in"]
    kept = counts["languages"].get(code, {}).values()
    assert previous == sum(split["documents"] for split in kept)
  assert total == len(_pages())


def test_dropped_samples_can_be_read(corpus):
  path = corpus / "dropped" / "eng_Latn" / "bad_words.bad_word.jsonl"
  assert "grubblefrotz" in json.loads(path.read_text())["text"]


def test_the_same_input_gives_the_same_bytes(
  corpus, crawl, word_lists, tmp_path
):
  mc4.run(_arguments(crawl, tmp_path / "again", word_lists))
  assert _tree(tmp_path / "again") == _tree(corpus)


def test_a_finished_corpus_is_left_alone_and_another_refused(
  corpus, crawl, word_lists, capsys
):
  before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
  mc4.run(_arguments(crawl, corpus, word_lists))
  assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*")} == before
  capsys.readouterr()
  arguments = _arguments(crawl, corpus, word_lists, "--preset=tfds")
  assert mc4.main(arguments) == 2
  assert "was begun with" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [3.0, 4.5])
def test_killed_and_started_again_gives_the_same_corpus(
  corpus, crawl, word_lists, tmp_path, seconds
):
  command = [
    sys.executable,
    "-m",
    "beam_pipelines.mc4",
    *_arguments(crawl, tmp_path / "killed", word_lists),
  ]
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  time.sleep(seconds)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
  assert _tree(tmp_path / "killed") == _tree(corpus)


def _error(capsys, *arguments):
  assert mc4.main([*arguments]) == 2
  message = capsys.readouterr().err.strip().split("\n")[-1]
  assert message.startswith("beam_pipelines.mc4: error:")
  return message


def test_mistakes_are_one_line_errors(capsys, crawl, tmp_path):
  out = f"--output={tmp_path / 'c'}"
  good = (f"--input={crawl}", out)
  modulus = "--validation_modulus=3"
  assert "no file matches" in _error(capsys, "--input=/no/x.gz", out, modulus)
  assert "unknown preset" in _error(capsys, *good, modulus, "--preset=best")
  assert "swh_Latn" in _error(capsys, *good, modulus, "--languages=swh_Latin")
  assert "at least 2" in _error(capsys, *good, "--validation_modulus=0")
  assert "does not exist" in _error(capsys, *good, modulus, "--bad_words=/no")
  assert not (tmp_path / "c").exists()


def test_a_crawl_without_pages_says_what_it_held(capsys, tmp_path):
  path = _warc(
    tmp_path / "images.warc.gz",
    [("http://i.example/", "x", {"content_type": "image/png"})],
  )
  message = _error(
    capsys,
    f"--input={path}",
    f"--output={tmp_path / 'c'}",
    "--validation_modulus=3",
  )
  assert "read.not_html 1" in message
  assert not (tmp_path / "c" / "counts.json").exists()


def test_a_truncated_last_record_costs_itself_alone(crawl):
  data = crawl.read_bytes()
  whole = list(read.read_records(io.BytesIO(data)))
  cut = list(read.read_records(io.BytesIO(data[:-40])))
  assert [r.url for r in cut[:-1]] == [r.url for r in whole[:-1]]
  assert cut[-1].reason == "truncated"


def test_a_broken_member_hides_no_other():
  members = [
    _record(f"http://{n}.example/", _html(_paragraphs("eng_Latn", n)).encode())
    for n in range(5)
  ]
  broken = bytearray(members[2])
  broken[60:90] = bytes(30)
  data = b"".join([*members[:2], bytes(broken), *members[3:]])
  records = list(read.read_records(io.BytesIO(data)))
  urls = [r.url for r in records if not r.reason]
  assert urls == [f"http://{n}.example/" for n in (0, 1, 3, 4)]
  assert [r.reason for r in records if r.reason] == ["bad_gzip"]


def test_random_bit_flips_never_raise(crawl):
  import random

  data = crawl.read_bytes()
  rng = random.Random(0)
  for _ in range(20):
    flipped = bytearray(data)
    for _ in range(5):
      flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    assert len(list(read.read_records(io.BytesIO(bytes(flipped))))) >= 20


def test_wet_records_are_read_as_text():
  text = SENTENCES["heb_Hebr"].encode()
  record = (
    b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://w.example/"
    b"\r\nWARC-Date: 2026-05-01T00:00:00Z\r\nContent-Type: text/plain\r\n"
    + f"Content-Length: {len(text)}\r\n\r\n".encode()
    + text
    + b"\r\n\r\n"
  )
  for data in (record, gzip.compress(record)):
    (got,) = read.read_records(io.BytesIO(data))
    assert (got.url, got.body, got.is_text) == ("http://w.example/", text, True)


@pytest.mark.parametrize(
  "url, expected",
  [
    ("http://www.a.example/b/", "a.example/b"),
    ("https://a.example/b?utm_source=c", "a.example/b"),
    ("https://a.example/b?id=3", "a.example/b?id=3"),
    ("http://a.example/b?ref=c&d", "a.example/b"),
  ],
)
def test_urls_are_normalised(url, expected):
  assert normalize.normalize_url(url) == expected


def test_line_length_rule_needs_three_lines_of_200_characters():
  rule = {"min_lines": 3, "min_characters": 200}
  good = "\n".join(["ሀ" * 200] * 3 + ["short"])
  assert length.long_lines(good, **rule) is None
  assert length.long_lines(good.replace("ሀ" * 200, "ሀ" * 199, 1), **rule)
  assert length.long_lines("ሀ" * 2000, **rule) == "few_lines"


def test_page_length_rule():
  assert length.page_length("字" * 190_000, max_characters=190_000) is None
  assert (
    length.page_length("字" * 190_001, max_characters=190_000) == "too_long"
  )
  assert length.page_length(" \n", max_characters=5) == "empty"


def test_bad_words_need_word_boundaries_but_in_unspaced_scripts(tmp_path):
  (tmp_path / "en").write_text("frotz\n")
  (tmp_path / "zh").write_text("坏词\n")
  patterns = bad_words.read_lists(str(tmp_path))

  def drops(code, text):
    return bad_words.bad_words(
      text, pattern=patterns.get(code), url="u", keep_one_in=1000
    )

  assert drops("eng_Latn", "such Frotz!") == "bad_word"
  assert drops("eng_Latn", "defrotzing") is None
  assert drops("zho_Hani", "这是坏词吗") == "bad_word"
  assert drops("rus_Cyrl", "frotz") is None


def test_a_shared_line_stays_in_the_page_of_the_smallest_hash():
  owners = [(b"b", "2"), (b"a", "1"), (b"c", "3")]
  assert sorted(line_dedup.lost_lines(owners)) == ["2", "3"]
  text, num_global, num_local = line_dedup.remove_lines(
    "Привет\nмир\nпривет ", {line_dedup.line_hash("МИР")}
  )
  assert (text, num_global, num_local) == ("Привет", 1, 1)
