"""Rows of JSON lines and Parquet: whole, damaged, and with odd values."""

import gzip
import json

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from beam_pipelines import row_files

ROWS = [
  {"url": "http://a.example/", "text": "Ein Haus", "id": 1},
  {"url": "http://б.example/", "text": "Дом\nу реки", "id": 2},
  {"url": "http://ቤት.example/", "text": "ቤት", "id": 3},
  {"url": "http://家.example/", "text": "川辺の家", "id": 4},
]
COLUMNS = ("url", "text", "timestamp")
WANTED = [({"url": r["url"], "text": r["text"]}, None) for r in ROWS]
JSON = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
  "name, pack",
  [
    ("rows.jsonl", bytes),
    ("rows.json.gz", gzip.compress),
    ("rows.jsonl.zst", zstandard.compress),
  ],
)
def test_json_lines(name, pack, tmp_path):
  path = tmp_path / name
  path.write_bytes(pack(JSON))
  assert row_files.is_row_file(str(path))
  assert list(row_files.read_rows(str(path), COLUMNS)) == WANTED


def test_a_bad_line_costs_no_other(tmp_path, monkeypatch):
  monkeypatch.setattr(row_files, "MAX_ROW_BYTES", 200)
  path = tmp_path / "rows.jsonl"
  bad = [b"{", b'"text"', b'{"text": "\xff"}', b'{"text": "' + b"y" * 300]
  bad += [b"[" * 100]
  good = JSON.splitlines()
  path.write_bytes(b"\n".join([good[0], *bad, *good[1:]]))
  found = list(row_files.read_rows(str(path), COLUMNS))
  assert [wrong for _, wrong in found] == [
    None,
    *("bad_json", "bad_json", "not_utf8", "too_long", "bad_json"),
    *(None, None, None),
  ]
  assert [row for row in found if not row[1]] == WANTED


def test_half_a_surrogate_pair_is_replaced(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"text": "a\\ud83d b", "url": "\\ud83d\\ude00"}')
  assert list(row_files.read_rows(str(path), COLUMNS)) == [
    ({"text": "a? b", "url": "😀"}, None)
  ]


def test_parquet(tmp_path):
  path = tmp_path / "rows.parquet"
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
  assert list(row_files.read_rows(str(path), COLUMNS)) == WANTED


def test_damaged_parquet_is_told(tmp_path):
  path = tmp_path / "rows.parquet"
  parquet.write_table(
    pyarrow.Table.from_pylist(ROWS), path, row_group_size=1, compression="gzip"
  )
  data = bytearray(path.read_bytes())
  path.write_bytes(data[:-9])
  assert list(row_files.read_rows(str(path), COLUMNS)) == [({}, "bad_parquet")]
  data[len(data) // 4] ^= 0xFF  # in a row group: the footer is whole
  path.write_bytes(data)
  *before, last = row_files.read_rows(str(path), COLUMNS)
  assert before == WANTED[: len(before)]
  assert last in ((WANTED[-1]), ({}, "bad_parquet"))


def test_other_files_are_no_rows():
  for name in ("a.warc.gz", "a.wet", "jsonl", "a.parquet.gz", "a.warc.zst"):
    assert not row_files.is_row_file(name)
