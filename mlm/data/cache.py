"""Caching seqio tasks: as a stream of tokens, or example by example."""

import hashlib
import os
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf
import tqdm

from mlm.data import (
  example_mixture,
  example_store,
  shards,
  task_names,
  token_stream,
)
from mlm.languages import rates as rates_lib
from mlm.languages import registry

CHUNK_TOKENS = 4096


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
    index = token_stream.index_path(output, task, split)
    if os.path.exists(index):
      found = shards.read_index(index, job="cache_tokens")
      shards.check_tokenizer(index, found, tokenizer_sha256)
      continue
    os.makedirs(os.path.dirname(index), exist_ok=True)
    totals = {"examples": 0, "tokens": 0}
    chunks = _chunks(_examples(task, split), totals)
    num_shards = shards.write(
      (chunk.astype(token_stream.DTYPE).tobytes() for chunk in chunks),
      os.path.dirname(index),
      split,
      shard_records=token_stream.SHARD_CHUNKS,
    )
    if not num_shards:
      raise ValueError(f"task {task} has no tokens in {split}; leave it out")
    content = {
      **totals,
      "chunk_tokens": CHUNK_TOKENS,
      "shards": num_shards,
      "tokenizer_sha256": tokenizer_sha256,
    }
    shards.write_index(index, content)


def _mixture_examples(task: str, split: str) -> Iterator[example_store.Example]:
  registered = seqio.TaskRegistry.get(task)
  features = list(registered.output_features)
  dataset = registered.get_dataset(
    sequence_length=None,
    split=split,
    shuffle=False,
    num_epochs=1,
    try_in_mem_cache=False,
  )
  texts = [f"{name}_pretokenized" for name in features]
  stream = dataset.prefetch(64).as_numpy_iterator()
  for number, example in enumerate(stream):
    kept = [example[name] for name in texts if name in example]
    try:
      characters = sum(len(text.decode()) for text in kept) if kept else None
    except UnicodeDecodeError as error:
      raise ValueError(
        f"the text of example {number} of task {task} is not UTF-8 ({error}); "
        "correct the task's source"
      ) from error
    yield {name: example[name] for name in features}, characters


def _check_features(task: str, tokenizer_sha256: str) -> list[str]:
  """Names of the features of a task, which are tokens of the tokenizer."""
  features = seqio.TaskRegistry.get(task).output_features
  if "targets" not in features:
    raise ValueError(f"task {task} has no targets, only {sorted(features)}")
  for name, feature in features.items():
    if feature.rank != 1 or not feature.dtype.is_integer:
      raise ValueError(
        f"feature {name} of task {task} has rank {feature.rank} and dtype "
        f"{feature.dtype.name}; only sequences of integers are cached"
      )
    vocabulary = feature.vocabulary
    if isinstance(vocabulary, seqio.PassThroughVocabulary):
      continue  # tokens made elsewhere: there is no model to compare
    path = getattr(vocabulary, "sentencepiece_model_file", None)
    if path is None:
      found = type(vocabulary).__name__
    else:
      with tf.io.gfile.GFile(path, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    if found != tokenizer_sha256:
      raise ValueError(
        f"feature {name} of task {task} is of tokenizer {found[:32]}, not of "
        f"{tokenizer_sha256[:32]}; register the task with the vocabulary of the "
        "tokenizer, or name the tokenizer that it uses"
      )
  return list(features)


def write_mixture(
  *,
  name: str,
  split: str,
  output: str,
  tokenizer_sha256: str,
  languages: Mapping[str, str],
) -> dict[str, tuple[float, dict]]:
  """Writes the examples of a mixture's tasks and the mixture's rates.

  Tasks that are there already are kept: killed and started again, it goes on
  with the task that it was at.

  Args:
    name: of a registered seqio mixture or task, with features "targets" and,
      for packed rows, "inputs".
    split: of the tasks.
    output: directory of the cache.
    tokenizer_sha256: of the tokenizer of the features.
    languages: task -> code, for tasks whose name's last part is no code.

  Returns:
    task -> (rate, index of `example_store.write_task`). Rates are shares of
    the examples, as seqio has them before it is given the cache: a rate by
    number of examples counts what the task's source counts, before its
    preprocessors drop or add any.

  Raises:
    ValueError: if a task has no language, features that are not sequences of
      integers of this tokenizer, no examples, or empty targets.
  """
  mixture = seqio.get_mixture_or_task(name)
  if isinstance(mixture, seqio.Mixture):
    rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
  else:
    rates = {name: 1.0}
  unknown = sorted(set(languages) - set(rates))
  if unknown:
    raise ValueError(
      f"languages are given for {unknown}, which are not tasks of {name}: "
      f"{sorted(rates)}"
    )
  total = sum(rates.values())
  shares = {task: rate / total for task, rate in rates.items()}
  rates_lib.check_shares(shares)
  # What is wrong with any task is told before the first is written.
  wanted = {
    task: (
      registry.get(languages[task]).code
      if task in languages
      else task_names.checked_language(task),
      _check_features(task, tokenizer_sha256),
    )
    for task in rates
  }
  written = {}
  for task, (language, features) in tqdm.tqdm(
    wanted.items(), desc="caching", unit="task"
  ):
    index = example_store.write_task(
      _mixture_examples(task, split),
      output=output,
      task=task,
      split=split,
      features=features,
      language=language,
      tokenizer_sha256=tokenizer_sha256,
    )
    written[task] = shares[task], index
  example_mixture.write_rates(output, name, shares)
  return written
