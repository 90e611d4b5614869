"""The mC4 pipeline on small crawls made here: accounting, restarts, errors."""

import collections
import gzip
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from beam_pipelines import driver, mc4
from mlm.text import documents, segment

ROOT = pathlib.Path(__file__).parents[2]
NUM_PAGES = 3  # good pages a language


@pytest.fixture
def records(crawl):
  """Good pages in ten languages, and what becomes of each bad one."""
  page, lines = crawl.html_page, crawl.paragraphs
  good = {
    f"http://{code[:3]}.example/{n}": page(lines(code, n))
    for code in crawl.SENTENCES
    for n in range(NUM_PAGES)
  }
  english = page(lines("eng_Latn", 50))
  wide = [
    line.replace(".", ". Grubblefrotz!") for line in lines("eng_Latn", 60)
  ]
  r = crawl.response
  records = [r(url, html) for url, html in good.items()]
  records += [
    r("http://a.example/old/", english),
    r(
      "https://www.a.example/old?utm_source=x",
      english,
      date="2024-06-01T00:00:00Z",
    ),
    r("http://copy.example/", english),
    r("http://short.example/", page(["The cat sat on the mat today."] * 3)),
    r("http://tibetan.example/", page(["རྫོང་ཁ་ནི་འབྲུག་ཡུལ་གྱི " * 20] * 3)),
    r("http://digits.example/", page(["1 234 567"])),
    r("http://gone.example/", "<p>no</p>", status="404 Not Found"),
    r("http://image.example/", b"\x89PNG", content_type="image/png"),
    r("http://empty.example/", "<html><body></body></html>"),
    r("http://bad.example/", page(wide)),
    crawl.record("warcinfo", "", b"software: test"),
  ]
  return records


@pytest.fixture
def word_lists(tmp_path):
  folder = tmp_path / "words"
  folder.mkdir()
  (folder / "en").write_text("grubblefrotz\n")
  return folder


@pytest.fixture
def warc(crawl, records, tmp_path):
  path = tmp_path / "crawl.warc.gz"
  path.write_bytes(crawl.archive(records))
  return path


def arguments(warc, output, word_lists, *more):
  return [
    f"--input={warc}",
    f"--output={output}",
    "--validation_modulus=3",
    f"--bad_words={word_lists}",
    *more,
  ]


@pytest.fixture
def corpus(warc, word_lists, tmp_path, monkeypatch):
  """A finished corpus; made while every network address is refused."""

  def refuse(*args, **kwargs):
    raise AssertionError(f"network use: {args}")

  with monkeypatch.context() as m:
    m.setattr(socket.socket, "connect", refuse)
    m.setattr(socket, "getaddrinfo", refuse)
    mc4.run(arguments(warc, tmp_path / "corpus", word_lists))
  return tmp_path / "corpus"


def tree(corpus):
  return {
    str(path.relative_to(corpus)): path.read_bytes()
    for path in sorted(corpus.rglob("*"))
    if path.is_file() and path.name not in ("manifest.json", "inputs.tsv")
  }


def decisions(corpus):
  rows = []
  for path in sorted((corpus / "decisions").glob("*.jsonl.gz")):
    with gzip.open(path, "rt", encoding="utf-8") as f:
      rows += [json.loads(line) for line in f]
  return rows


def test_a_corpus_from_end_to_end(corpus, crawl, records, capsys):
  """One build, many questions: building takes seconds."""
  counts = documents.read_counts(corpus)
  rows = decisions(corpus)

  # Every page record has one decision, in the fields of the contract.
  assert len(rows) == len(records) - 1
  assert set(rows[0]) == {
    *("url", "language", "language_probability"),
    *("outcome", "stage", "reason"),
  }
  reason = {r["url"]: f"{r['stage']}.{r['reason']}" for r in rows}
  assert reason["http://gone.example/"] == "read.http_status"
  assert reason["http://image.example/"] == "read.not_html"
  assert reason["http://empty.example/"] == "extract.empty"
  assert reason["http://digits.example/"] == "langid.undetermined"
  assert reason["http://tibetan.example/"].startswith("langid.")
  assert reason["http://short.example/"] == "line_length.short_lines"
  assert reason["http://a.example/old/"] == "url_dedup.older_copy"
  assert reason["http://bad.example/"] == "bad_words.bad_word"
  copies = ["https://www.a.example/old?utm_source=x", "http://copy.example/"]
  assert sorted(reason[u] for u in copies) == [
    ".",
    "line_dedup.all_lines_duplicate",
  ]
  for code in crawl.SENTENCES:
    for n in range(NUM_PAGES):
      assert reason[f"http://{code[:3]}.example/{n}"] == "."

  # Counts are a recount of the shards, and the text is what was crawled.
  assert set(counts["languages"]) == set(crawl.SENTENCES)
  num_documents = 0
  for code, splits in counts["languages"].items():
    texts = {}
    for split, expected in splits.items():
      docs = list(documents.read_documents(corpus, code, split))
      assert expected == {
        "documents": len(docs),
        "repeats": 0,
        "words": sum(segment.num_words(d.text, code) for d in docs),
        "characters": sum(len(d.text) for d in docs),
        "bytes": sum(len(d.text.encode()) for d in docs),
      }
      assert all(d.language == code for d in docs)
      num_documents += len(docs)
      texts |= {d.url: d.text for d in docs}
    for n in range(NUM_PAGES):
      text = texts[f"http://{code[:3]}.example/{n}"]
      assert text.split("\n") == crawl.paragraphs(code, n)
  assert num_documents == sum(r["outcome"] == "kept" for r in rows)

  # The funnel adds up, stage by stage and with the decisions.
  dropped = collections.Counter()
  for code, stages in counts["funnel"].items():
    assert list(stages) == counts["stages"]
    remaining = next(iter(stages.values()))["in"]
    for name, row in stages.items():
      assert row["in"] == remaining
      assert row["in"] == row["kept"] + sum(row["dropped"].values())
      remaining = row["kept"]
      for why, number in row["dropped"].items():
        dropped[code, f"{name}.{why}"] += number
    kept = counts["languages"].get(code, {}).values()
    assert remaining == sum(split["documents"] for split in kept)
  assert dropped == collections.Counter(
    (r["language"] or "und", f"{r['stage']}.{r['reason']}")
    for r in rows
    if r["outcome"] == "dropped"
  )

  # Dropped pages can be read, the manifest is complete, nothing is left over.
  sample = corpus / "dropped" / "eng_Latn" / "bad_words.bad_word.jsonl"
  assert "Grubblefrotz" in json.loads(sample.read_text())["text"]
  manifest = json.loads((corpus / "manifest.json").read_text())
  assert manifest["settings"]["min_language_probability"] == 0.7
  assert "resiliparse" in manifest["versions"]
  names = {path.name for path in corpus.iterdir()}
  assert names == {
    *("manifest.json", "inputs.tsv", "counts.json", "decisions", "dropped"),
    *crawl.SENTENCES,
  }


def test_equal_input_gives_equal_bytes_and_a_finished_corpus_stays(
  corpus, warc, word_lists, tmp_path, monkeypatch, capsys
):
  moved = tmp_path / "elsewhere"
  moved.mkdir()
  shutil.copy(warc, moved / "c.warc.gz")
  monkeypatch.setattr(driver, "_PART_BYTES", 2000)
  mc4.run(arguments(moved / "c.warc.gz", tmp_path / "again", word_lists))
  assert tree(tmp_path / "again") == tree(corpus)
  monkeypatch.undo()

  before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
  capsys.readouterr()
  mc4.run(arguments(warc, corpus, word_lists))
  assert "finished already" in capsys.readouterr().out
  assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*")} == before
  # Killed just after counts.json was written.
  (corpus / "stages").mkdir()
  (corpus / "stages" / "pages-0000000-00000000000000.jsonl.gz").touch()
  mc4.run(arguments(warc, corpus, word_lists))
  assert not (corpus / "stages").exists()
  other = arguments(warc, corpus, word_lists, "--preset=tfds")
  assert mc4.main(other) == 2
  assert "was made with min_language_probability = 0.7, not 0.95" in (
    capsys.readouterr().err
  )


def test_shards_share_out_the_pages(warc, tmp_path):
  """Without word lists the stage is left out; all shards are there."""
  output = tmp_path / "corpus"
  counts = mc4.run(
    [
      f"--input={warc}",
      f"--output={output}",
      "--validation_modulus=1000",
      "--shard_megabytes=0.002",
      "--languages=tha_Thai,kor_Hang",
    ]
  )
  assert set(counts["languages"]) == {"tha_Thai", "kor_Hang"}
  assert "bad_words" not in counts["stages"]
  assert counts["funnel"]["hin_Deva"]["langid"]["dropped"] == {
    "unlisted_language": NUM_PAGES
  }
  manifest = json.loads((output / "manifest.json").read_text())
  assert "skipped" in manifest["remarks"]["bad_words"]
  for code in ("tha_Thai", "kor_Hang"):
    size = counts["languages"][code]["train"]["bytes"]
    number = 1 + int(size / int(0.002 * 2**20))
    assert number > 1
    shards = sorted((output / code).glob("train-*.jsonl.gz"))
    assert len(shards) == number
    assert shards[-1].name.endswith(f"-of-{number:05d}.jsonl.gz")
    found = list(documents.read_documents(output, code, "train"))
    assert len({d.url for d in found}) == NUM_PAGES


def test_c4_is_english_lines_that_read_like_sentences(crawl, tmp_path):
  good = [
    "The farmers repaired the old bridge before the rain came.",
    "Everyone in the village was glad to cross the river again.",
    "A carpenter from the next valley brought the heavy oak beams [3].",
  ]
  other = [
    "The ferry had stopped running when the water rose too high.",
    "Nobody could remember a spring with as much rain as this.",
  ]
  # Two pages share a sentence; the URL of the first has the smaller hash.
  pages = {
    "http://good.example/": [*good, "Home | About | Contact", "Read more..."],
    "http://less.example/": [*other, good[0]],
    "http://code.example/": [*good, "All of it was written as { code } here."],
    "http://short.example/": good[:2],
    "http://french.example/": [crawl.SENTENCES["fra_Latn"]] * 3,
  }
  warc, output = tmp_path / "crawl.warc.gz", tmp_path / "corpus"
  warc.write_bytes(
    crawl.archive(
      [crawl.response(u, crawl.html_page(lines)) for u, lines in pages.items()]
    )
  )
  arguments = [f"--input={warc}", f"--output={output}", "--preset=c4"]
  arguments += ["--validation_modulus=1000"]
  with pytest.raises(ValueError, match="leave one of them out"):
    mc4.run([*arguments, "--languages=fra_Latn"])
  counts = mc4.run(arguments)
  dropped = {
    row["url"]: (row["stage"], row["reason"])
    for row in decisions(output)
    if row["stage"]
  }
  assert dropped == {
    "http://less.example/": ("sentences_left", "few_sentences"),
    "http://code.example/": ("sentence_lines", "curly_bracket"),
    "http://short.example/": ("sentence_lines", "few_sentences"),
    "http://french.example/": ("langid", "unlisted_language"),
  }
  assert list(counts["languages"]) == ["eng_Latn"]
  (page,) = documents.read_documents(output, "eng_Latn", "train")
  assert page.text == "\n".join(good).replace(" [3]", " ")


def test_wet_text_and_cut_files_are_read(crawl, tmp_path):
  records = [
    crawl.record(
      "conversion",
      f"http://{code[:3]}.example/",
      "\n".join(crawl.paragraphs(code, 1)).encode(),
      content_type="text/plain",
    )
    for code in crawl.SENTENCES
  ]
  path = tmp_path / "c.wet.gz"
  path.write_bytes(crawl.archive(records)[:-30])
  output = tmp_path / "corpus"
  counts = mc4.run(
    [f"--input={path}", f"--output={output}", "--validation_modulus=1000"]
  )
  *whole, cut = crawl.SENTENCES
  assert set(counts["languages"]) == set(whole)
  assert counts["funnel"]["und"]["read"]["dropped"] == {"truncated": 1}
  for code in whole:
    (doc,) = documents.read_documents(output, code, "train")
    assert doc.text.split("\n") == crawl.paragraphs(code, 1)


@pytest.mark.slow
def test_several_processes_give_the_same_corpus(
  corpus, warc, word_lists, tmp_path
):
  """Workers get everything by pickle, as on a cluster."""
  options = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
  output = tmp_path / "several"
  mc4.run(arguments(warc, output, word_lists, *options))
  assert tree(output) == tree(corpus)


def _kill_when(command, is_time):
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  while process.poll() is None and not is_time():
    time.sleep(0.002)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()


def test_killed_twice_and_started_again(crawl, records, word_lists, tmp_path):
  """In the middle of reading, then of writing; parts are not read again."""
  inputs = tmp_path / "inputs"
  inputs.mkdir()
  for n, record in enumerate(records):
    (inputs / f"{n:02d}.warc.gz").write_bytes(crawl.archive([record]))
  clean, killed = tmp_path / "clean", tmp_path / "killed"
  mc4.run(arguments(f"{inputs}/*", clean, word_lists))
  command = [
    sys.executable,
    "-m",
    "beam_pipelines.mc4",
    *arguments(f"{inputs}/*", killed, word_lists),
  ]

  def staged():
    paths = (killed / "stages").glob("pages-*.jsonl.gz")
    return {p.name: p.stat().st_mtime_ns for p in paths}

  _kill_when(command, lambda: len(staged()) >= 3)
  first = staged()
  assert 3 <= len(first)
  assert not (killed / "counts.json").exists()
  _kill_when(command, lambda: list(killed.glob("*_*/train-*.jsonl.gz")))
  second = staged()
  assert second.items() >= first.items()
  result = subprocess.run(
    command, cwd=ROOT, check=True, capture_output=True, text=True
  )
  assert tree(killed) == tree(clean)
  if len(second) == len(records):  # it was not too fast for the second kill
    assert f"{len(records)} of them read before" in result.stdout


def error_of(capsys, *arguments):
  assert mc4.main(arguments) == 2
  lines = capsys.readouterr().err.strip().split("\n")
  assert len(lines) == 1
  prefix, _, message = lines[0].partition("error: ")
  assert prefix == "beam_pipelines.mc4: "
  return message


def test_mistakes_are_told_in_one_line_before_any_work(capsys, warc, tmp_path):
  output = tmp_path / "corpus"
  good = (f"--input={warc}", f"--output={output}", "--validation_modulus=3")
  for wrong, told in {
    "--input=/no/x*.gz": "no file matches --input '/no/x*.gz'",
    "--preset=best": "choose one of paper, tfds, c4",
    "--languages=swh_Latin": "swh_Latn",
    "--langauges=swh_Latn": "did you mean languages",
    "--validation_modulus=0": "at least 2",
    "--validation_modulus=many": "invalid int value: 'many'",
    "--shard_megabytes=0": "above 0",
    "--format=csv": "invalid choice: 'csv'",
    "--crawl=CC-MAIN-2024-10": "one only",
    "--min_language_probability=70": "must be in [0, 1]",
    "--bad_words=/no": "is not a directory",
    "stray": "unknown option 'stray'",
    f"--output={warc}/corpus": "cannot write to --output",
    f"--output={tmp_path}": "choose an empty directory",
  }.items():
    assert told in error_of(capsys, *good, wrong), wrong
  assert "--output" in error_of(capsys, f"--input={warc}")
  assert not output.exists()


def test_a_crawl_without_pages_says_what_it_holds(crawl, capsys, tmp_path):
  r = crawl.response("http://i.example/", "x", content_type="image/png")
  path = tmp_path / "images.warc.gz"
  path.write_bytes(crawl.archive([crawl.record("warcinfo", "", b"x"), r, r]))
  output = tmp_path / "corpus"
  good = [f"--output={output}", "--validation_modulus=3"]
  message = error_of(capsys, f"--input={path}", *good)
  assert "1 warcinfo, 2 response records" in message
  assert not (output / "counts.json").exists()
  with pytest.raises(FileNotFoundError, match="unfinished"):
    documents.read_counts(output)
