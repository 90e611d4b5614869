"""Detector against truth: hand-worked tables, and a recount of random ones."""

import collections
import csv
import gzip
import json
import pathlib
import random

import pytest

from mlm.evaluation import identification
from mlm.languages import registry

CRAWL = pathlib.Path(__file__).parents[2] / "testdata/crawl/sample_crawl.tsv"
STAGES = ("read", "extract", "langid", "page_length", "url_dedup", "")
LANGUAGES = ("amh_Ethi", "ell_Grek", "kor_Hang", "rus_Cyrl", "tha_Thai", "nn")


def _row(url, language, stage, reason=""):
  return {
    "url": url,
    "language": language,
    "language_probability": 0.9,
    "outcome": "dropped" if stage else "kept",
    "stage": stage,
    "reason": reason,
  }


@pytest.mark.parametrize("column", ["language", "lang"])
def test_labels_become_canonical_codes(tmp_path, column):
  labels = {
    "http://a.example/ሰላም": ("am", "amh_Ethi"),
    "http://b.example/": ("tha_Thai", "tha_Thai"),
    "http://c.example/": ("iw", "heb_Hebr"),
    "http://d.example/": ("zh_TW", "zho_Hani"),
    "http://e.example/": ("fa-AF", "pes_Arab"),
    "http://f.example/": ("kor", "kor_Hang"),
    "http://g.example/": ("ru-Latn", "rus_Latn"),
    "http://h.example/": ("", ""),
    "http://i.example/": ("nn", "nn"),
    "http://j.example/": ("sr-Latn", "sr-Latn"),
  }
  rows = [f"note\t{label}\t{url}" for url, (label, _) in labels.items()]
  path = tmp_path / "truth.tsv"
  path.write_text("\n".join([f"kind\t{column}\turl", *rows]), "utf-8")
  truth = identification.read_truth(str(path))
  assert truth == {url: code for url, (_, code) in labels.items()}


def test_truth_of_the_sample_crawl_is_read_whole():
  with open(CRAWL, encoding="utf-8", newline="") as f:
    rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
  truth = identification.read_truth(str(CRAWL))
  assert truth == {row[0]: row[1] for row in rows[1:]}
  assert len({registry.get(code).script for code in truth.values() if code}) > 9


@pytest.mark.parametrize(
  "header", ["url\tcode", "page\tlanguage", "url,language", ""]
)
def test_a_table_without_the_columns_is_refused(tmp_path, header):
  path = tmp_path / "truth.tsv"
  path.write_text(f"{header}\n", "utf-8")
  with pytest.raises(ValueError, match="it needs url and language") as error:
    identification.read_truth(str(path))
  assert str(path) in str(error.value)
  assert header.split("\t")[0] in str(error.value)


def test_counts_of_a_hand_worked_example():
  truth = {f"http://{i}": "tha_Thai" for i in range(1, 5)}
  truth |= {"http://5": "lao_Laoo", "http://6": "nn", "http://7": ""}
  decisions = [
    _row("http://1", "tha_Thai", ""),
    _row("http://2", "lao_Laoo", ""),
    _row("http://3", "tha_Thai", "langid", "low_confidence"),
    _row("http://4", None, "extract", "no_text"),
    _row("http://5", "lao_Laoo", "url_dedup", "older_capture"),
    _row("http://6", "nob_Latn", ""),
    _row("http://7", "tha_Thai", ""),
    _row("http://8", "tha_Thai", ""),
  ]
  assert identification.agreement(decisions, truth) == {
    "tha_Thai": {"pages": 3, "accepted": 2, "right": 1, "kept": 2},
    "lao_Laoo": {"pages": 1, "accepted": 1, "right": 1, "kept": 0},
    "nn": {"pages": 1, "accepted": 1, "right": 0, "kept": 1},
  }


def test_a_recount_over_files_agrees_in_any_order(tmp_path):
  rng = random.Random(0)
  truth = {f"http://{i}": rng.choice(LANGUAGES) for i in range(300)}
  rows = [
    _row(url, rng.choice(LANGUAGES[:-1]), rng.choice(STAGES)) for url in truth
  ]
  (tmp_path / "decisions").mkdir()
  for n in range(3):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[n::3]]
    path = tmp_path / f"decisions/ማንኛውም-{n:05d}-of-00003.jsonl.gz"
    path.write_bytes(gzip.compress("".join(lines).encode()))
  read = identification.read_decisions(str(tmp_path))
  assert sorted(map(str, read)) == sorted(map(str, rows))

  result = identification.agreement(read, truth)
  # Totals of the pages that reached the detector, counted column by column.
  reached = [r for r in rows if STAGES.index(r["stage"]) >= 2]
  accepted = [r for r in reached if r["stage"] != "langid"]
  columns = {
    "pages": reached,
    "accepted": accepted,
    "right": [r for r in accepted if r["language"] == truth[r["url"]]],
    "kept": [r for r in rows if r["stage"] == ""],
  }
  for name, counted in columns.items():
    expected = collections.Counter(truth[r["url"]] for r in counted)
    got = {label: row[name] for label, row in result.items()}
    assert got == {label: expected[label] for label in result}
    assert sum(got.values()) == len(counted)
  assert identification.agreement(read[::-1], truth) == result


def test_a_corpus_without_decisions_has_none(tmp_path):
  assert identification.read_decisions(str(tmp_path)) == []
