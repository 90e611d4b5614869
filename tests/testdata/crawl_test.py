"""The sample crawl is what its sources, its builder and its README say."""

import collections
import csv
import functools
import html
import json
import pathlib
import re
import subprocess
import sys
import unicodedata
import zlib

import pytest

from mlm.languages import registry

CRAWL = pathlib.Path(__file__).parent / "crawl"
CLEAN = ("article", "bulletin")


@functools.cache
def truth():
  with open(CRAWL / "sample_crawl.tsv", encoding="utf-8", newline="") as file:
    return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def members(data):
  """Decompresses each gzip member; the last one may be cut."""
  result = []
  while data:
    decompressor = zlib.decompressobj(wbits=31)
    result.append(decompressor.decompress(data))
    data = decompressor.unused_data
  return result


@functools.cache
def responses():
  """(WARC header fields, HTTP message) of each response, in order."""
  result = []
  for member in members((CRAWL / "sample_crawl.warc.gz").read_bytes()):
    header, block = member.split(b"\r\n\r\n", 1)
    lines = header.decode("utf-8").split("\r\n")
    assert lines[0] == "WARC/1.0"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    if fields["WARC-Type"] == "response":
      result.append((fields, block))
  return tuple(result)


def article_lines(message):
  """Title and paragraphs of a UTF-8 page."""
  text = message.decode("utf-8", "replace")
  article = re.search(r"<article>(.*?)</article>", text, re.DOTALL)[1]
  lines = re.findall(r"<(?:h1|p)>(.*)</(?:h1|p)>", article)
  return [html.unescape(line) for line in lines]


def languages():
  return sorted({row["language"] for row in truth() if row["kind"] in CLEAN})


def run_builder(script, output):
  return subprocess.run(
    [sys.executable, str(script), "--output", str(output)],
    capture_output=True,
    text=True,
  )


def test_rebuilding_gives_the_committed_records_and_truth(tmp_path):
  first, second = tmp_path / "1.warc.gz", tmp_path / "2.warc.gz"
  for output in (first, second):
    done = run_builder(CRAWL / "build.py", output)
    assert done.returncode == 0, done.stderr
  assert first.read_bytes() == second.read_bytes()
  committed = (CRAWL / "sample_crawl.warc.gz").read_bytes()
  # Compressed bytes depend on the zlib of the machine; records do not.
  assert members(first.read_bytes()) == members(committed)
  assert (tmp_path / "1.tsv").read_bytes() == (
    CRAWL / "sample_crawl.tsv"
  ).read_bytes()


def test_truth_lists_every_response_in_order():
  urls = [fields["WARC-Target-URI"] for fields, _ in responses()]
  assert [row["url"] for row in truth()] == urls
  assert set(truth()[0]) == {"url", "language", "kind", "charset", "note"}


def test_truth_uses_canonical_codes():
  for row in truth():
    assert not row["language"] or registry.get(row["language"])


def test_readme_explains_every_kind():
  readme = (CRAWL / "README.md").read_text(encoding="utf-8")
  table = readme.split("## Kinds")[1]
  named = set(re.findall(r"[a-z0-9_]+", table))
  assert {row["kind"] for row in truth()} <= named


def test_every_language_has_three_articles_and_ten_bulletins():
  counts = collections.Counter(
    (row["language"], row["kind"]) for row in truth() if row["kind"] in CLEAN
  )
  assert len(languages()) >= 24
  for code in languages():
    assert counts[code, "article"] == 3
    assert counts[code, "bulletin"] == 10


def test_there_are_ten_scripts_and_each_language_is_in_its_own():
  script_names = {
    "Latn": {"LATIN"},
    "Cyrl": {"CYRILLIC"},
    "Arab": {"ARABIC"},
    "Hebr": {"HEBREW"},
    "Deva": {"DEVANAGARI"},
    "Beng": {"BENGALI"},
    "Taml": {"TAMIL"},
    "Thai": {"THAI"},
    "Grek": {"GREEK"},
    "Armn": {"ARMENIAN"},
    "Geor": {"GEORGIAN"},
    "Ethi": {"ETHIOPIC"},
    "Khmr": {"KHMER"},
    "Hani": {"CJK"},
    "Jpan": {"HIRAGANA", "KATAKANA", "CJK"},
    "Hang": {"HANGUL"},
  }
  seen = set()
  for row, (_, message) in zip(truth(), responses()):
    if row["kind"] not in CLEAN:
      continue
    letters = [c for c in "".join(article_lines(message)) if c.isalpha()]
    names = collections.Counter(unicodedata.name(c).split()[0] for c in letters)
    script = row["language"].split("_")[1]
    share = sum(names[n] for n in script_names[script]) / len(letters)
    assert share > 0.97, (row["url"], names.most_common(3))
    seen.add(script)
  assert len(seen) >= 10


def test_clean_pages_have_long_paragraphs_and_no_braces():
  for row, (_, message) in zip(truth(), responses()):
    if row["kind"] in CLEAN:
      title, *paragraphs = article_lines(message)
      assert len(paragraphs) in (4, 5), row["url"]
      assert min(map(len, paragraphs)) >= 220, row["url"]
      assert not set("{}") & set(title + "".join(paragraphs)), row["url"]


def test_no_two_clean_pages_share_a_paragraph():
  where = {}
  for row, (_, message) in zip(truth(), responses()):
    if row["kind"] in CLEAN:
      for line in article_lines(message)[1:]:
        assert line not in where, (row["url"], where[line])
        where[line] = row["url"]


def test_only_the_last_record_is_cut():
  for i, (fields, block) in enumerate(responses(), start=1):
    assert fields["WARC-Date"].startswith("2024-")
    missing = int(fields["Content-Length"]) - len(
      block.removesuffix(b"\r\n" * 2)
    )
    assert (missing > 0) == (i == len(responses()))
  assert truth()[-1]["kind"] == "truncated_record"


def test_exact_duplicates_have_the_bytes_of_their_original():
  body = {row["url"]: m for row, (_, m) in zip(truth(), responses())}
  rows = [row for row in truth() if row["kind"] == "exact_duplicate"]
  assert rows
  for row in rows:
    original = row["note"].split()[-1]
    assert original != row["url"]
    assert body[original] == body[row["url"]]


def test_near_duplicates_differ_in_two_paragraphs():
  body = {row["url"]: m for row, (_, m) in zip(truth(), responses())}
  rows = [row for row in truth() if row["kind"] == "near_duplicate"]
  assert rows
  for row in rows:
    original = article_lines(body[row["note"].split()[-1]])
    changed = article_lines(body[row["url"]])
    assert len(original) == len(changed)
    assert sum(a != b for a, b in zip(original, changed)) == 2


def test_superseded_captures_are_older_and_say_something_else():
  dates, texts = {}, collections.defaultdict(set)
  rows = []
  for row, (fields, message) in zip(truth(), responses()):
    if row["kind"] in ("newest_capture", "superseded_capture"):
      rows.append((row, fields["WARC-Date"]))
      texts[row["language"]].add(message)
      if row["kind"] == "newest_capture":
        dates[row["url"]] = fields["WARC-Date"]
  assert len(dates) == 2 and all(len(t) == 4 for t in texts.values())
  for row, date in rows:
    if row["kind"] == "superseded_capture":
      assert date < dates[row["note"].split()[-1]]


def test_legacy_pages_decode_to_the_text_of_their_utf8_twin():
  body = {row["url"]: m for row, (_, m) in zip(truth(), responses())}
  rows = [row for row in truth() if row["kind"] == "legacy_charset"]
  assert len({row["charset"] for row in rows}) >= 10
  declared = set()
  for row in rows:
    codec = {"windows-874": "cp874"}.get(row["charset"], row["charset"])
    text = body[row["url"]].decode(codec)
    twin = body[row["note"].split()[-1]]
    assert article_lines(text.encode()) == article_lines(twin)
    header, page = text.split("\r\n\r\n", 1)
    place = row["note"].split(": ")[1].split(";")[0]
    assert (f"charset={row['charset']}" in header) == (place == "header")
    assert ("<meta charset" in page) == (place == "meta")
    declared.add(place)
  assert declared == {"header", "meta", "nowhere"}


def test_mojibake_is_undone_by_the_inverse():
  rows = [
    (row, message)
    for row, (_, message) in zip(truth(), responses())
    if row["kind"] == "mojibake"
  ]
  assert len(rows) == 2
  for row, message in rows:
    site = json.loads(
      (CRAWL / "sources" / row["language"] / "site.json").read_text("utf-8")
    )
    page = message.split(b"\r\n\r\n", 1)[1].decode("utf-8")
    assert site["footer"] not in page
    assert html.escape(site["footer"]) in page.encode("latin-1").decode("utf-8")


def test_bad_word_stands_alone_in_one_page_only():
  (word,) = (CRAWL / "bad_words" / "en").read_text("utf-8").split()
  alone = re.compile(rf"(?<!\w){word}(?!\w)", re.IGNORECASE)
  found = {}
  for row, (_, message) in zip(truth(), responses()):
    text = message.decode("utf-8", "replace")
    if word in text.lower():
      found[row["kind"]] = bool(alone.search(text))
  assert found == {"bad_word": True, "bad_word_inside": False}


def test_test_data_stays_under_three_megabytes():
  files = [
    path
    for path in CRAWL.parent.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  ]
  assert sum(path.stat().st_size for path in files) < 3_000_000


@pytest.mark.parametrize(
  ("name", "old", "new", "message"),
  [
    ("bulletin.json", "{person}", "{parson}", "uses the slot 'parson'"),
    ("site.json", '"footer"', '"feet"', "needs.*footer"),
    ("site.json", "eng_Latn", "fra_Latn", "folder's name 'eng_Latn'"),
    ("bread-oven.html", "<p>", "<p><b>", "need <p>text</p>"),
    (
      "bread-oven.html",
      "</h1>\n",
      "</h1>\n<p>Short.</p>\n",
      "has 6 characters",
    ),
  ],
)
def test_builder_names_what_is_wrong_in_a_source(
  tmp_path, name, old, new, message
):
  for script in CRAWL.glob("*.py"):
    (tmp_path / script.name).write_bytes(script.read_bytes())
  folder = tmp_path / "sources" / "eng_Latn"
  folder.mkdir(parents=True)
  for path in (CRAWL / "sources" / "eng_Latn").iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  text = (folder / name).read_text("utf-8")
  assert old in text
  (folder / name).write_text(text.replace(old, new), "utf-8")
  done = run_builder(tmp_path / "build.py", tmp_path / "out.warc.gz")
  assert done.returncode != 0
  assert re.search(message, done.stderr), done.stderr
  assert not (tmp_path / "out.warc.gz").exists()
