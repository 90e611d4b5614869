"""Examples of a task on disk, read by number, their lengths known without.

CACHE/<task>/<split>-00000-of-00001.array_record   one example a record
CACHE/<task>/<split>.lengths.npy                   int32 [examples, features]
CACHE/<task>/<split>.examples.json                 counts, written last

A record is the int32 tokens of the example's features, one after the other.
"""

import array
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from mlm.data import shards
from mlm.data.token_stream import DTYPE

SHARD_EXAMPLES = 1 << 20
_JOB = "cache_mixture or cache_records"

# Tokens of each feature, and characters of their text (None if it is not kept).
Example = tuple[Mapping[str, np.ndarray], int | None]


def _index_name(split: str) -> str:
  return f"{split}.examples.json"


def cached_tasks(output: str, split: str) -> list[str]:
  """Names of the tasks of a cache that have examples of a split, sorted.

  Raises:
    FileNotFoundError: if there is none.
  """
  return shards.cached_tasks(output, _index_name(split), job=_JOB)


class _Counted:
  """Records of examples, counting as they pass."""

  def __init__(self, task: str, features: Sequence[str]):
    self._task, self._features = task, features
    self.lengths = array.array("i")
    self.characters: int | None = 0

  def records(self, examples: Iterable[Example]) -> Iterator[bytes]:
    for number, (tokens, characters) in enumerate(examples):
      if not len(tokens["targets"]):
        raise ValueError(
          f"example {number} of task {self._task} has empty targets, from which "
          "nothing is learnt; filter such examples out of the task"
        )
      self.lengths.extend(len(tokens[name]) for name in self._features)
      if characters is None or self.characters is None:
        self.characters = None
      else:
        self.characters += characters
      yield b"".join(
        np.asarray(tokens[name], DTYPE).tobytes() for name in self._features
      )


def write_task(
  examples: Iterable[Example],
  *,
  output: str,
  task: str,
  split: str,
  features: Sequence[str],
  language: str,
  tokenizer_sha256: str,
) -> dict:
  """Writes the examples of a task, unless they are there already.

  What a killed writer left is written anew.

  Args:
    examples: in any order that does not change; not read if they are there.
    output: directory of the cache.
    task: its name.
    split: of the task.
    features: names, "targets" among them; every example has these.
    language: code of the registry.
    tokenizer_sha256: of the tokenizer of the features; readers check it.

  Returns:
    {"examples", "tokens": {feature: n}, "characters": n or None, "language",
    "shards", "tokenizer_sha256"}; features in their order in the records.

  Raises:
    ValueError: if there is no example, one has empty targets, or the task is
      there with another tokenizer, other features or another language.
  """
  directory = os.path.join(output, task)
  path = os.path.join(directory, _index_name(split))
  if os.path.exists(path):
    index = shards.read_index(path, job=_JOB)
    shards.check_tokenizer(path, index, tokenizer_sha256)
    found = list(index["tokens"]), index["language"]
    if found != (list(features), language):
      raise ValueError(
        f"{path} is of features and language {found}, not "
        f"{(list(features), language)}; delete its folder to cache it anew"
      )
    return index
  os.makedirs(directory, exist_ok=True)
  counted = _Counted(task, features)
  num_shards = shards.write(
    counted.records(examples), directory, split, shard_records=SHARD_EXAMPLES
  )
  if not num_shards:
    raise ValueError(f"task {task} has no examples in {split}; leave it out")
  lengths = np.array(counted.lengths, DTYPE).reshape(-1, len(features))
  with open(_lengths_path(directory, split), "wb") as f:
    np.save(f, lengths)
  index = {
    "examples": len(lengths),
    "tokens": dict(zip(features, lengths.sum(axis=0, dtype=int).tolist())),
    "characters": counted.characters,
    "language": language,
    "shards": num_shards,
    "tokenizer_sha256": tokenizer_sha256,
  }
  shards.write_index(path, index)
  return index


def _lengths_path(directory: str, split: str) -> str:
  return os.path.join(directory, f"{split}.lengths.npy")


class ExampleStore:
  """The examples of a cached task.

  Attributes:
    task: its name.
    language: code.
    num_examples: N.
    lengths: feature -> tokens of each example, int32 [N].
  """

  def __init__(self, output: str, task: str, split: str, tokenizer_sha256: str):
    """Opens shards and lengths.

    Raises:
      FileNotFoundError: if the task is not cached, or a file is missing.
      ValueError: if it is of another tokenizer, or a file is cut off.
    """
    directory = os.path.join(output, task)
    path = os.path.join(directory, _index_name(split))
    index = shards.read_index(path, job=_JOB)
    shards.check_tokenizer(path, index, tokenizer_sha256)
    self.task, self.language = task, index["language"]
    self.num_examples = index["examples"]
    self._features = list(index["tokens"])
    lengths = _read_lengths(_lengths_path(directory, split), index)
    self.lengths = dict(zip(self._features, lengths.T))
    self._shards = shards.Shards(
      directory,
      split,
      num_shards=index["shards"],
      num_records=self.num_examples,
      shard_records=SHARD_EXAMPLES,
      job=_JOB,
    )

  def read(self, numbers: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Examples of numbers in [0, N), feature -> int32 tokens.

    Raises:
      ValueError: if one is damaged.
    """
    ends = np.cumsum([of[numbers] for of in self.lengths.values()], axis=0)
    examples = []
    for data, cuts in zip(self._shards.read(numbers), ends.T):
      parts = np.split(np.frombuffer(data, DTYPE), cuts)
      examples.append(dict(zip(self._features, parts)))
    return examples


def _read_lengths(path: str, index: dict) -> np.ndarray:
  """Lengths, int32 [examples, features], checked against the index."""
  if not os.path.exists(path):
    raise FileNotFoundError(f"no {path}; copy the cache whole")
  try:
    lengths = np.load(path)
    sums = lengths.sum(axis=0, dtype=int).tolist()
  except (ValueError, EOFError):
    lengths, sums = np.empty(0), []
  if len(lengths) != index["examples"] or sums != [*index["tokens"].values()]:
    raise ValueError(
      f"{path} is not the lengths that its index counts; copy it again, or "
      f"delete its folder and run {_JOB}"
    )
  return lengths
