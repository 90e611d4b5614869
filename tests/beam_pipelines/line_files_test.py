"""Lines of plain and compressed files, whole and damaged."""

import gzip

import pytest
import zstandard

from beam_pipelines import line_files

LINES = ["Привет мир", "", "สวัสดี", "x" * 50, "سلام", "ሰላም", "終わり"]
DATA = "\n".join(LINES).encode() + b"\n"


def _zstd(data):
  half = len(data) // 2  # two frames
  return b"".join(
    zstandard.compress(part) for part in (data[:half], data[half:])
  )


PACK = {"l.jsonl": bytes, "l.jsonl.gz": gzip.compress, "l.jsonl.zst": _zstd}


def read(path, max_bytes=1000):
  return list(line_files.read_lines(str(path), max_bytes=max_bytes))


@pytest.mark.parametrize("name", PACK)
def test_lines_of_whole_files(name, tmp_path):
  path = tmp_path / name
  path.write_bytes(PACK[name](DATA))
  assert read(path) == [(line.encode(), None) for line in LINES]
  path.write_bytes(PACK[name](DATA[:-1]))  # no line break at the end
  assert read(path) == [(line.encode(), None) for line in LINES]
  path.write_bytes(PACK[name](b""))
  assert read(path) == []


@pytest.mark.parametrize("name", PACK)
def test_a_long_line_is_left_out_alone(name, tmp_path):
  path = tmp_path / name
  path.write_bytes(PACK[name](DATA))
  expected = [
    (b"", "too_long") if len(line.encode()) > 30 else (line.encode(), None)
    for line in LINES
  ]
  assert read(path, 30) == expected
  assert read(path, 50)[3] == (b"x" * 50, None)
  assert read(path, 49)[3] == (b"", "too_long")


@pytest.mark.parametrize("name", ["l.jsonl.gz", "l.jsonl.zst"])
def test_what_stands_before_the_damage_is_read(name, tmp_path):
  many = b"".join(b"line %06d\n" % n for n in range(20000))
  packed = PACK[name](many)
  path = tmp_path / name
  path.write_bytes(packed[: len(packed) * 3 // 4])
  found = read(path)
  assert found[-1] == (b"", "truncated")
  assert len(found) > 5000
  assert [line for line, _ in found[:-1]] == many.split(b"\n")[: len(found) - 1]
  path.write_bytes(b"not compressed at all\n")
  assert read(path) == [(b"", "truncated")]


def test_a_bomb_is_read_line_by_line(tmp_path):
  """A gigabyte of one line in a megabyte of gzip."""
  path = tmp_path / "bomb.gz"
  with gzip.open(path, "wb", compresslevel=1) as f:
    for _ in range(64):
      f.write(b"\0" * (1 << 24))
    f.write(b"\nend\n")
  assert read(path, 1 << 20) == [(b"", "too_long"), (b"end", None)]
