"""The committed sample crawl is what its sources give, and is listed whole."""

import csv
import io
import pathlib
import subprocess
import sys

from beam_pipelines import read
from mlm.languages import registry

FOLDER = pathlib.Path(__file__).parent / "crawl"
CRAWL = FOLDER / "sample_crawl.warc.gz"


def _truth():
  with open(FOLDER / "sample_crawl.tsv", encoding="utf-8", newline="") as f:
    return list(csv.DictReader(f, delimiter="\t"))


def test_building_again_gives_the_committed_bytes(tmp_path):
  output = tmp_path / CRAWL.name
  subprocess.run(
    [sys.executable, str(FOLDER / "build.py"), "--output", str(output)],
    check=True,
  )
  assert output.read_bytes() == CRAWL.read_bytes()
  table = output.with_name("sample_crawl.tsv")
  assert table.read_bytes() == (FOLDER / "sample_crawl.tsv").read_bytes()


def test_every_readable_record_is_in_the_truth_table():
  urls = {row["url"] for row in _truth()}
  records = list(read.read_records(io.BytesIO(CRAWL.read_bytes())))
  assert records[-1].reason == "truncated"
  assert len(records) == len(_truth())
  assert {r.url for r in records if r.url} <= urls


def test_it_is_multilingual_and_small():
  languages = {row["language"] for row in _truth()} - {""}
  scripts = {registry.get(code).script for code in languages}
  assert len(languages) >= 21 and len(scripts) >= 8
  size = sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file())
  assert size < 3_000_000
