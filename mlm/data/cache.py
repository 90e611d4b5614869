"""Caching tasks: their tokens, once through seqio, for `token_stream` to read."""

import json
import os
from collections.abc import Iterator

import numpy as np
import seqio
import tqdm
from array_record.python import array_record_module

from mlm.data import token_stream

CHUNK_TOKENS = 4096
_WRITER_OPTIONS = "group_size:1"  # each chunk is read alone


def _examples(task: str, split: str) -> Iterator[np.ndarray]:
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    sequence_length=None,
    split=split,
    shuffle=False,
    num_epochs=1,
    try_in_mem_cache=False,
  )
  for example in dataset.prefetch(64).as_numpy_iterator():
    yield example["targets"]


def _chunks(
  examples: Iterator[np.ndarray], totals: dict
) -> Iterator[np.ndarray]:
  waiting, size = [], 0
  for tokens in examples:
    totals["examples"] += 1
    totals["tokens"] += len(tokens)
    waiting.append(tokens)
    size += len(tokens)
    if size >= CHUNK_TOKENS:
      stream = np.concatenate(waiting)
      whole = size - size % CHUNK_TOKENS
      yield from stream[:whole].reshape(-1, CHUNK_TOKENS)
      waiting, size = [stream[whole:]], size - whole
  if size:
    yield np.concatenate(waiting)


def write_cache(
  *, tasks: list[str], split: str, output: str, tokenizer_sha256: str
) -> None:
  """Writes the token streams of tasks; those that are there already are kept.

  Args:
    tasks: names of registered seqio tasks with a feature "targets".
    split: of the tasks.
    output: directory of the cache.
    tokenizer_sha256: of the tokenizer that the tasks use; readers check it.

  Raises:
    ValueError: if a task has no tokens, or its tokens are there by another
      tokenizer.
  """
  for task in tqdm.tqdm(tasks, desc="caching", unit="task"):
    directory = os.path.join(output, task)
    index = os.path.join(directory, f"{split}.json")
    if os.path.exists(index):
      token_stream.check_tokenizer(
        index, token_stream.read_index(output, task, split), tokenizer_sha256
      )
      continue
    os.makedirs(directory, exist_ok=True)
    totals = {"examples": 0, "tokens": 0}
    partial = _write_shards(
      _chunks(_examples(task, split), totals), directory, split
    )
    if not totals["tokens"]:
      raise ValueError(f"task {task} has no tokens in {split}; leave it out")
    for number, path in enumerate(partial):
      os.replace(
        path, token_stream.shard_path(directory, split, number, len(partial))
      )
    content = {
      **totals,
      "chunk_tokens": CHUNK_TOKENS,
      "shards": len(partial),
      "tokenizer_sha256": tokenizer_sha256,
    }
    with open(f"{index}.partial", "w", encoding="utf-8") as f:
      json.dump(content, f, indent=1)
    os.replace(f"{index}.partial", index)


def _write_shards(chunks, directory, split) -> list[str]:
  paths, writer = [], None
  for number, chunk in enumerate(chunks):
    if number % token_stream.SHARD_CHUNKS == 0:
      if writer:
        writer.close()
      paths.append(os.path.join(directory, f"{split}-{len(paths)}.partial"))
      writer = array_record_module.ArrayRecordWriter(paths[-1], _WRITER_OPTIONS)
    writer.write(chunk.astype(token_stream.DTYPE).tobytes())
  if writer:
    writer.close()
  return paths
