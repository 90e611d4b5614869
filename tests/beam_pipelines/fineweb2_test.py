"""The FineWeb2 pipeline on the sample crawl: accounting, restarts, errors."""

import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from beam_pipelines import fineweb2
from beam_pipelines.filters import distribution
from mlm.text import documents

ROOT = pathlib.Path(__file__).parents[2]
CRAWL = ROOT / "tests/testdata/crawl/sample_crawl.warc.gz"


def arguments(output, *more):
  return [
    f"--input={CRAWL}",
    f"--output={output}",
    "--validation_modulus=5",
    *more,
  ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  output = tmp_path_factory.mktemp("fineweb2") / "corpus"
  fineweb2.run(arguments(output))
  return output


def tree(corpus):
  return {
    str(path.relative_to(corpus)): path.read_bytes()
    for path in sorted(corpus.rglob("*"))
    if path.is_file() and path.name != "manifest.json"
  }


def decisions(corpus):
  return [
    json.loads(line)
    for path in sorted((corpus / "decisions").glob("*.jsonl.gz"))
    for line in gzip.decompress(path.read_bytes()).decode().splitlines()
  ]


def test_every_page_is_accounted_for_and_copies_go(corpus):
  with open(CRAWL.with_suffix("").with_suffix(".tsv"), encoding="utf-8") as f:
    rows = [line.split("\t") for line in f.read().splitlines()[1:]]
  kind_of = {row[0]: row[2] for row in rows}
  found = decisions(corpus)
  # A truncated record has lost its headers, and its URL with them.
  expected = ["" if row[2] == "truncated_record" else row[0] for row in rows]
  assert sorted(r["url"] for r in found) == sorted(expected)
  reasons = {r["url"]: f"{r['stage']}.{r['reason']}" for r in found}
  for url, kind in kind_of.items():
    if kind == "exact_duplicate":
      assert reasons[url] == "minhash.near_duplicate"
  assert reasons[""] == "read.truncated"
  counts = documents.read_counts(corpus)
  assert counts["stages"][:4] == ["read", "extract", "langid", "minhash"]
  for code, splits in counts["languages"].items():
    for split, numbers in splits.items():
      read = list(documents.read_documents(corpus, code, split))
      assert len(read) == numbers["documents"]


def test_a_killed_run_goes_on_to_the_same_corpus(corpus, tmp_path):
  output = tmp_path / "killed"
  command = [sys.executable, "-m", "beam_pipelines.fineweb2"]
  for stage in ("probabilities", "pairs-00"):
    process = subprocess.Popen(
      [*command, *arguments(output)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    marker = output / f"stages/{stage}.done.json"
    while process.poll() is None and not marker.exists():
      time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert marker.exists() and not (output / "counts.json").exists()
  before = marker.stat().st_mtime_ns
  result = subprocess.run(
    [*command, *arguments(output)], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert "1 of them read before" in result.stdout
  assert "English's limits filter" in result.stdout
  assert before and tree(output) == tree(corpus)


@pytest.mark.slow
def test_twenty_kills_of_drivers_and_workers_at_random(corpus, tmp_path):
  """Every corpus that comes out in spite of them is the undisturbed one."""
  rng = random.Random(0)
  output, kills, finished = tmp_path / "killed", [], 0
  command = [
    *(sys.executable, "-m", "beam_pipelines.fineweb2", *arguments(output)),
    *("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
  ]
  while len(kills) < 20 or not finished:
    process = subprocess.Popen(
      command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
      # Later starts have less to do; once all kills are spent, none follows.
      wait = rng.uniform(1, 12) if len(kills) < 20 else None
      process.wait(wait)
    except subprocess.TimeoutExpired:
      workers = subprocess.run(
        ["pgrep", "--session", str(process.pid), "--full", "sdk_worker_main"],
        capture_output=True,
        text=True,
      ).stdout.split()
      victim = rng.choice(workers) if workers and rng.random() < 0.5 else ""
      os.kill(int(victim or process.pid), signal.SIGKILL)
      kills.append("worker" if victim else "driver")
      try:
        process.wait(20)  # without a worker the driver fails, or waits for it
      except subprocess.TimeoutExpired:
        pass
    if process.poll() is None or process.returncode != 0:
      subprocess.run(["pkill", "-9", "--session", str(process.pid)])
      process.wait()
      continue
    assert tree(output) == tree(corpus)
    finished += 1
    shutil.rmtree(output)
  assert {"worker", "driver"} <= set(kills)
  print(f"kills {kills}, corpora {finished}")


def test_confidence_thresholds_by_hand():
  """Median less standard deviation, between 0.3 and 0.9."""
  of = distribution.Distribution.of
  # Standard deviation of (0.6, 0.8, 1.0): 0.1633.
  spread = of({0.6: 1, 0.8: 1, 1.0: 1})
  assert fineweb2.confidence_threshold(spread) == pytest.approx(
    0.6367, abs=1e-4
  )
  assert fineweb2.confidence_threshold(of({0.99: 5})) == 0.9
  assert fineweb2.confidence_threshold(of({0.1: 1, 0.9: 1})) == 0.3


@pytest.mark.parametrize(
  "size, copies",
  [
    (1, 1),
    (2, 2),
    (3, 3),
    (4, 3),
    (5, 5),
    (99, 5),
    (100, 8),
    (999, 8),
    (1000, 1),
  ],
)
def test_rehydration_table(size, copies):
  """FineWeb2's published numbers of repeats."""
  assert fineweb2.copies(size) == copies


def test_repair_mends_mojibake_bars_and_addresses():
  page = {"text": "schÃ¶n | grün\n| \nan ich@haus.example"}
  assert fineweb2.repair(page)["text"] == "schön \n grün\nan <|email|>"


def test_rehydrated_pages_are_repeated(tmp_path, corpus):
  counts = fineweb2.run(arguments(tmp_path / "corpus", "--rehydrate"))
  once = documents.read_counts(corpus)
  assert counts["funnel"] == once["funnel"]
  (code, split) = "fra_Latn", "train"
  numbers = counts["languages"][code][split]
  read = list(documents.read_documents(tmp_path / "corpus", code, split))
  assert numbers["documents"] == len(read)
  unique = {d.url for d in read}
  assert numbers["repeats"] == len(read) - len(unique) > 0
  assert len(unique) == once["languages"][code][split]["documents"]


def test_mistakes_are_told_in_one_line(capsys, tmp_path):
  (tmp_path / "empty").mkdir()
  for wrong, told in {
    f"--thresholds={tmp_path}/empty": "has no default.json",
    "--languages=swh_Latin": "swh_Latn",
    "--rehidrate": "did you mean rehydrate",
  }.items():
    assert fineweb2.main(arguments(tmp_path / "x", wrong)) == 2
    assert told in capsys.readouterr().err
