"""One seqio task a language over the document shards of a corpus."""

import functools
import glob
import json
import os
from collections.abc import Mapping

import seqio
import tensorflow as tf

from mlm.data import task_names
from mlm.languages import registry
from mlm.text import documents
from mlm.tokenizers import load, vocabularies

SPLITS = ("train", "validation")

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
    if name in seqio.TaskRegistry.names():
      if _arguments.get(name) != arguments:
        raise ValueError(
          f"task {name} is registered with {_arguments.get(name)}, not "
          f"{arguments}; use another prefix, or "
          f"seqio.TaskRegistry.remove({name!r}) first"
        )
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
