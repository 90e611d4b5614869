"""The cached tokens of a task, read from any place on.

CACHE/<task>/<split>-00000-of-00002.array_record   chunks of int32 tokens
CACHE/<task>/<split>.json                          counts, written last

A task's examples follow each other as one stream of tokens, each ending in EOS;
chunks cut the stream anywhere.
"""

import functools
import glob
import json
import os

import numpy as np
from array_record.python import array_record_module

DTYPE = np.dtype("<i4")
SHARD_CHUNKS = 1 << 16  # with chunks of 4,096 a gigabyte before compression
_READER_OPTIONS = "readahead_buffer_size:0"


def shard_path(directory: str, split: str, number: int, total: int) -> str:
  name = f"{split}-{number:05d}-of-{total:05d}.array_record"
  return os.path.join(directory, name)


def cached_tasks(output: str, split: str) -> list[str]:
  """Names of the tasks of a cache that have a split, sorted.

  Raises:
    FileNotFoundError: if there is none.
  """
  paths = glob.glob(os.path.join(glob.escape(output), "*", f"{split}.json"))
  if not paths:
    raise FileNotFoundError(
      f"no cached tokens of {split} in {output!r}; run the job cache_tokens"
    )
  return sorted(os.path.basename(os.path.dirname(path)) for path in paths)


def read_index(output: str, task: str, split: str) -> dict:
  """{"examples", "tokens", "chunk_tokens", "shards", "tokenizer_sha256"}.

  Raises:
    FileNotFoundError: if the task is not in the cache.
  """
  path = os.path.join(output, task, f"{split}.json")
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {path}: task {task} is not cached, or not to its end; run the job "
      "cache_tokens"
    )
  with open(path, encoding="utf-8") as f:
    return json.load(f)


def check_tokenizer(path: str, index: dict, sha256: str) -> None:
  if index["tokenizer_sha256"] != sha256:
    raise ValueError(
      f"{path} holds tokens of tokenizer {index['tokenizer_sha256'][:12]}…, not "
      f"of {sha256[:12]}…; name the tokenizer they came from, or another cache"
    )


class TokenStream:
  """The tokens of a cached task, from any place on."""

  def __init__(self, output: str, task: str, split: str, tokenizer_sha256: str):
    """Opens the shards.

    Raises:
      FileNotFoundError: if the task is not cached.
      ValueError: if its tokens are of another tokenizer, or a shard is cut off.
    """
    index = read_index(output, task, split)
    directory = os.path.join(output, task)
    check_tokenizer(directory, index, tokenizer_sha256)
    self.num_tokens = index["tokens"]
    self._paths = [
      shard_path(directory, split, number, index["shards"])
      for number in range(index["shards"])
    ]
    self._readers = []
    self._chunk_tokens = index["chunk_tokens"]
    num_chunks = -(-self.num_tokens // self._chunk_tokens)
    for number, path in enumerate(self._paths):
      expected = min(SHARD_CHUNKS, num_chunks - number * SHARD_CHUNKS)
      if not os.path.exists(path):
        raise FileNotFoundError(f"no {path}; copy the cache whole")
      reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
      if not reader.ok() or reader.num_records() != expected:
        raise ValueError(
          f"{path} has {reader.num_records()} of its {expected} chunks; it was "
          "cut off: copy it again, or delete its folder and run cache_tokens"
        )
      self._readers.append(reader)
    self._chunk = functools.lru_cache(maxsize=16)(self._read_chunk)

  def _read_chunk(self, number: int) -> np.ndarray:
    shard, place = divmod(number, SHARD_CHUNKS)
    try:
      (data,) = self._readers[shard].read([place])
    except RuntimeError as error:
      raise ValueError(
        f"chunk {place} of {self._paths[shard]} is damaged ({error}); copy the "
        "file again, or delete its folder and run cache_tokens"
      ) from error
    return np.frombuffer(data, DTYPE)

  def read(self, start: int, size: int) -> np.ndarray:
    """int32 [size] tokens from `start` on; the end is followed by the start.

    Args:
      start: position, in [0, num_tokens).
      size: tokens, at most num_tokens.
    """
    parts = []
    while size:
      number, offset = divmod(start, self._chunk_tokens)
      part = self._chunk(number)[offset : offset + size]
      parts.append(part)
      size -= len(part)
      start += len(part)
      if start == self.num_tokens:
        start = 0
    return np.concatenate(parts)
