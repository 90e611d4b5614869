"""The cached tokens of a task, read from any place on.

CACHE/<task>/<split>-00000-of-00002.array_record   chunks of int32 tokens
CACHE/<task>/<split>.json                          counts, written last

A task's examples follow each other as one stream of tokens, each ending in EOS;
chunks cut the stream anywhere.
"""

import functools
import os

import numpy as np

from mlm.data import shards

DTYPE = np.dtype("<i4")
SHARD_CHUNKS = 1 << 16  # with chunks of 4,096 a gigabyte before compression
_JOB = "cache_tokens"


def index_path(output: str, task: str, split: str) -> str:
  """Path of {"examples", "tokens", "chunk_tokens", "shards", "tokenizer_sha256"}."""
  return os.path.join(output, task, f"{split}.json")


def cached_tasks(output: str, split: str) -> list[str]:
  """Names of the tasks of a cache that have a split, sorted.

  Raises:
    FileNotFoundError: if there is none.
  """
  return shards.cached_tasks(output, f"{split}.json", job=_JOB)


class TokenStream:
  """The tokens of a cached task, from any place on."""

  def __init__(self, output: str, task: str, split: str, tokenizer_sha256: str):
    """Opens the shards.

    Raises:
      FileNotFoundError: if the task is not cached.
      ValueError: if its tokens are of another tokenizer, or a shard is cut off.
    """
    path = index_path(output, task, split)
    index = shards.read_index(path, job=_JOB)
    shards.check_tokenizer(path, index, tokenizer_sha256)
    self.num_tokens = index["tokens"]
    self._chunk_tokens = index["chunk_tokens"]
    self._shards = shards.Shards(
      os.path.dirname(path),
      split,
      num_shards=index["shards"],
      num_records=-(-self.num_tokens // self._chunk_tokens),
      shard_records=SHARD_CHUNKS,
      job=_JOB,
    )
    self._chunk = functools.lru_cache(maxsize=16)(self._read_chunk)

  def _read_chunk(self, number: int) -> np.ndarray:
    (data,) = self._shards.read([number])
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
