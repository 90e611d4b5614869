"""One seqio task a language: over the documents of a corpus, or its tokens."""

import functools
import glob
import json
import os
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from mlm.data import objectives, task_names, token_stream
from mlm.languages import registry
from mlm.text import documents
from mlm.tokenizers import load, vocabularies

SPLITS = ("train", "validation")
_SHUFFLED_WINDOWS = 1 << 20  # numbers in a shuffle's buffer, 8 MiB

# Registered task -> the arguments that made it.
_arguments: dict[str, tuple] = {}


def register_tasks(
  *, corpus: str, tokenizer: str, sequence_length: int, prefix: str
) -> list[str]:
  """Registers a task for every language of the corpus that has train text.

  An example is {"targets", "language_ids"}, both int32 of equal length: a
  document's tokens with EOS at its end, cut into pieces of `sequence_length`
  with nothing lost (so only its last piece ends in EOS). "language_ids" is
  `registry.index` + 1, since seqio takes 0 for padding when it packs.

  Registering again with the same arguments changes nothing.

  Args:
    corpus: finished corpus directory.
    tokenizer: tokenizer directory.
    sequence_length: longest example in tokens.
    prefix: first part of the task names, e.g. "mc4".

  Returns:
    Names `prefix.code` in table order of the languages.

  Raises:
    FileNotFoundError: if the corpus or the tokenizer is unfinished.
    ValueError: if shards are missing, or a task of that name was registered
      with other arguments (seqio.TaskRegistry.remove it first).
  """
  if sequence_length < 1:
    raise ValueError(f"sequence_length {sequence_length} must be positive")
  counts = documents.read_counts(corpus)["languages"]
  vocabulary = vocabularies.vocabulary(tokenizer)
  arguments = (
    os.path.abspath(corpus),
    load.read_card(tokenizer)["model_sha256"],
    sequence_length,
  )
  names = []
  for code in registry.codes():
    if not counts.get(code, {}).get("train", {}).get("documents"):
      continue
    name = task_names.task_name(prefix, code)
    names.append(name)
    if _is_registered(name, arguments):
      continue
    shards = {
      split: shard_paths(corpus, code, split)
      for split in SPLITS
      if counts[code].get(split, {}).get("documents")
    }
    seqio.TaskRegistry.add(
      name,
      source=seqio.FileDataSource(
        read_file_fn=_read_shard,
        split_to_filepattern=shards,
        cycle_length=4,
      ),
      preprocessors=[
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        seqio.preprocessors.append_eos,
        functools.partial(_split, length=sequence_length),
        functools.partial(_add_language, language_id=registry.index(code)),
      ],
      output_features={
        "targets": seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32),
        "language_ids": seqio.Feature(
          seqio.PassThroughVocabulary(registry.NUM_LANGUAGES + 1),
          add_eos=False,
          dtype=tf.int32,
        ),
      },
    )
    _arguments[name] = arguments
  return names


def _is_registered(name: str, arguments: tuple) -> bool:
  """Whether it is, with these arguments; raises ValueError if with others."""
  if name not in seqio.TaskRegistry.names():
    return False
  if _arguments.get(name) != arguments:
    raise ValueError(
      f"task {name} is registered with {_arguments.get(name)}, not "
      f"{arguments}; use another prefix, or "
      f"seqio.TaskRegistry.remove({name!r}) first"
    )
  return True


def register_window_tasks(
  *,
  tokens: str,
  tokenizer: str,
  objective: objectives.Objective,
  prefix: str,
) -> list[str]:
  """Registers a task for every language of a token cache.

  An example is {"inputs", "targets"}, both int32: a window of the language's
  tokens as the objective makes it for an encoder–decoder, without padding. In
  each epoch windows follow each other with none left out but the last, shorter
  one; shuffling is of all windows.

  Registering again with the same arguments changes nothing.

  Args:
    tokens: directory of the job cache_tokens; only its train split.
    tokenizer: tokenizer directory, the one that made the tokens.
    objective: of `mlm.data.objectives` or `mlm.data.ul2`.
    prefix: first part of the task names, e.g. "mc4_spans".

  Returns:
    Names `prefix.code`.

  Raises:
    FileNotFoundError: if the cache or the tokenizer is unfinished.
    ValueError: if the tokens are of another tokenizer, the objective is a
      decoder's, or a task of that name was registered with other arguments.
  """
  if "encoder_input_tokens" not in objectives.row_shapes(objective):
    raise ValueError(
      f"the objective {objective.settings['objective']!r} makes rows for a "
      "decoder; choose one for an encoder–decoder"
    )
  vocabulary = vocabularies.vocabulary(tokenizer)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  arguments = (os.path.abspath(tokens), sha256, repr(objective.settings))
  names = []
  for cached in token_stream.cached_tasks(tokens, "train"):
    name = task_names.task_name(prefix, task_names.checked_language(cached))
    names.append(name)
    if _is_registered(name, arguments):
      continue
    stream = token_stream.TokenStream(tokens, cached, "train", sha256)
    size = min(objective.raw_length, stream.num_tokens)
    feature = seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        functools.partial(_windows, stream=stream, size=size),
        splits=["train"],
        num_input_examples={"train": stream.num_tokens // size},
      ),
      preprocessors=[
        functools.partial(_inputs_and_targets, objective=objective)
      ],
      output_features={"inputs": feature, "targets": feature},
    )
    _arguments[name] = arguments
  return names


def _windows(
  split: str,
  shuffle_files: bool,
  seed: int | None = None,
  *,
  stream: token_stream.TokenStream,
  size: int,
) -> tf.data.Dataset:
  del split
  count = stream.num_tokens // size
  numbers = tf.data.Dataset.range(count)
  if shuffle_files:
    numbers = numbers.shuffle(min(count, _SHUFFLED_WINDOWS), seed=seed)

  def read(number):
    return stream.read(int(number) * size, size).astype(np.int32)

  def to_example(number):
    tokens = tf.numpy_function(read, [number], tf.int32, stateful=False)
    return {"tokens": tf.ensure_shape(tokens, [size])}

  return numbers.map(to_example)


def _inputs_and_targets(
  dataset: tf.data.Dataset, *, objective: objectives.Objective
) -> tf.data.Dataset:
  def features(tokens, seed):
    row = objective.features(tokens, np.random.default_rng(seed.tolist()))
    inputs = row["encoder_input_tokens"][row["encoder_segment_ids"] > 0]
    targets = row["decoder_target_tokens"][row["decoder_segment_ids"] > 0]
    return inputs.astype(np.int32), targets.astype(np.int32)

  @seqio.map_over_dataset(num_seeds=1)
  def to_example(example, seed):
    inputs, targets = tf.numpy_function(
      features, [example["tokens"], seed], [tf.int32, tf.int32], stateful=False
    )
    return {
      "inputs": tf.ensure_shape(inputs, [None]),
      "targets": tf.ensure_shape(targets, [None]),
    }

  return to_example(dataset)


def shard_paths(corpus: str, code: str, split: str) -> list[str]:
  """Paths of the shards of a language and split, in order.

  Raises:
    ValueError: if shards are missing or of several writings.
  """
  pattern = os.path.join(glob.escape(corpus), code, f"{split}-*-of-*.jsonl.gz")
  paths = sorted(glob.glob(pattern))
  totals = {path.rpartition("-of-")[2].partition(".")[0] for path in paths}
  if len(totals) != 1 or len(paths) != int(*totals):
    raise ValueError(
      f"{pattern}: found {len(paths)} shards with totals {sorted(totals)}, "
      "need every shard of one total; copy the corpus whole or make it again"
    )
  return paths


def _read_shard(path: tf.Tensor) -> tf.data.Dataset:
  def text_of(line):
    return json.loads(line)["text"].encode()

  def to_example(line):
    text = tf.numpy_function(text_of, [line], tf.string, stateful=False)
    return {"targets": tf.ensure_shape(text, [])}

  lines = tf.data.TextLineDataset(path, compression_type="GZIP")
  return lines.map(to_example)


def _split(dataset: tf.data.Dataset, *, length: int) -> tf.data.Dataset:
  """Cuts "targets" into consecutive pieces of at most `length` tokens."""

  def to_rows(example):
    targets = example["targets"]
    num_rows = -(-tf.size(targets) // length)
    padding = num_rows * length - tf.size(targets)
    rows = tf.reshape(tf.pad(targets, [[0, padding]]), [num_rows, length])
    sizes = tf.minimum(tf.size(targets) - tf.range(num_rows) * length, length)
    return {"targets": rows, "size": sizes}

  def trim(example):
    return {"targets": example["targets"][: example["size"]]}

  return dataset.map(to_rows).unbatch().map(trim)


def _add_language(
  dataset: tf.data.Dataset, *, language_id: int
) -> tf.data.Dataset:
  def add(example: Mapping[str, tf.Tensor]):
    filled = tf.fill(tf.shape(example["targets"]), language_id + 1)
    return {**example, "language_ids": filled}

  return dataset.map(add)
