"""Numbered records in ArrayRecord shards: written in order, read by number.

CACHE/<task>/<split>-00000-of-00002.array_record
CACHE/<task>/<index>.json                          what they are, written last
"""

import glob
import json
import os
from collections.abc import Iterable, Sequence

from array_record.python import array_record_module

_WRITER_OPTIONS = "group_size:1"  # each record is read alone
_READER_OPTIONS = "readahead_buffer_size:0"


def _path(directory: str, split: str, number: int, total: int) -> str:
  name = f"{split}-{number:05d}-of-{total:05d}.array_record"
  return os.path.join(directory, name)


def write(
  records: Iterable[bytes], directory: str, split: str, *, shard_records: int
) -> int:
  """Writes shards, which get their names when all are written.

  Args:
    records: any number.
    directory: that exists.
    split: first part of the names.
    shard_records: records a shard; the last may have fewer.

  Returns:
    Number of shards; 0 if there was no record.
  """
  partial, writer = [], None
  for number, record in enumerate(records):
    if number % shard_records == 0:
      if writer:
        writer.close()
      partial.append(os.path.join(directory, f"{split}-{len(partial)}.partial"))
      writer = array_record_module.ArrayRecordWriter(
        partial[-1], _WRITER_OPTIONS
      )
    writer.write(record)
  if writer:
    writer.close()
  for number, path in enumerate(partial):
    os.replace(path, _path(directory, split, number, len(partial)))
  return len(partial)


def write_index(path: str, content: dict) -> None:
  """Writes what is known of a task's shards, whole or not at all."""
  with open(f"{path}.partial", "w", encoding="utf-8") as f:
    json.dump(content, f, indent=1)
  os.replace(f"{path}.partial", path)


def read_index(path: str, *, job: str) -> dict:
  """Reads what `write_index` wrote.

  Raises:
    FileNotFoundError: if the task is not in the cache, or not to its end.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {path}: this task is not cached, or not to its end; run the job {job}"
    )
  with open(path, encoding="utf-8") as f:
    return json.load(f)


def cached_tasks(output: str, index: str, *, job: str) -> list[str]:
  """Names of the tasks of a cache that have an index of that name, sorted.

  Raises:
    FileNotFoundError: if there is none.
  """
  paths = glob.glob(os.path.join(glob.escape(output), "*", index))
  if not paths:
    raise FileNotFoundError(
      f"no task in {output!r} has {index}; run the job {job}"
    )
  return sorted(os.path.basename(os.path.dirname(path)) for path in paths)


def check_tokenizer(path: str, index: dict, sha256: str) -> None:
  """Raises ValueError unless an index is of the tokenizer with that hash."""
  if index["tokenizer_sha256"] != sha256:
    raise ValueError(
      f"{path} holds tokens of tokenizer {index['tokenizer_sha256'][:12]}…, not "
      f"of {sha256[:12]}…; name the tokenizer they came from, or another cache"
    )


class Shards:
  """The records of a directory and split, by number."""

  def __init__(
    self,
    directory: str,
    split: str,
    *,
    num_shards: int,
    num_records: int,
    shard_records: int,
    job: str,
  ):
    """Opens the shards that `write` wrote.

    Args:
      directory: of the shards.
      split: first part of their names.
      num_shards: as `write` returned.
      num_records: in all.
      shard_records: as `write` was given.
      job: that makes them, for errors.

    Raises:
      FileNotFoundError: if a shard is missing.
      ValueError: if one is cut off.
    """
    self._shard_records, self._job = shard_records, job
    self._paths = [
      _path(directory, split, number, num_shards)
      for number in range(num_shards)
    ]
    self._readers = []
    for number, path in enumerate(self._paths):
      expected = min(shard_records, num_records - number * shard_records)
      if not os.path.exists(path):
        raise FileNotFoundError(f"no {path}; copy the cache whole")
      reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
      if not reader.ok() or reader.num_records() != expected:
        raise ValueError(
          f"{path} has {reader.num_records()} of its {expected} records; it "
          f"was cut off: copy it again, or delete its folder and run {job}"
        )
      self._readers.append(reader)

  def read(self, numbers: Sequence[int]) -> list[bytes]:
    """Records in the order of their numbers given.

    Raises:
      ValueError: if one is damaged.
    """
    asked: dict[int, list[int]] = {}
    for number in numbers:
      shard, place = divmod(int(number), self._shard_records)
      asked.setdefault(shard, []).append(place)
    found = {}
    for shard, places in asked.items():
      try:
        records = self._readers[shard].read(places)
      except RuntimeError as error:
        raise ValueError(
          f"record {places[0]} of {self._paths[shard]}, or one read with it, is "
          f"damaged ({error}); copy the file again, or delete its folder and "
          f"run {self._job}"
        ) from error
      found[shard] = iter(records)
    return [next(found[int(n) // self._shard_records]) for n in numbers]
