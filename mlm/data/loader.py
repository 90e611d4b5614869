"""Batches of a mixture as numpy arrays."""

from collections.abc import Iterator

import numpy as np
import seqio
import tensorflow as tf

from mlm.data import features


def batches(
  *,
  mixture: str,
  sequence_length: int,
  batch_size: int,
  seed: int,
  start_step: int,
  split: str = "train",
) -> Iterator[dict[str, np.ndarray]]:
  """Yields packed batches for ever; batch number `step` depends on seed only.

  The first batch is the one that an uninterrupted run would have at
  `start_step`. It is reached by producing and dropping the earlier ones, so
  resuming costs the input time of the steps skipped.

  Args:
    mixture: name of a registered mixture or task.
    sequence_length: T, that of the tasks' registration.
    batch_size: B, rows.
    seed: of file order, shuffle buffers and mixing.
    start_step: first step, >= 0.
    split: "train" or "validation".

  Yields:
    {"decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights",
    "decoder_positions", "decoder_segment_ids", "decoder_language_ids"}, each
    [B, T]; float32 weights, else int32.

  Raises:
    ValueError: if a size is out of range or the mixture is not registered.
  """
  if sequence_length < 1 or batch_size < 1 or start_step < 0:
    raise ValueError(
      f"sequence_length {sequence_length} and batch_size {batch_size} must be "
      f"at least 1, start_step {start_step} at least 0"
    )
  # The accelerators belong to JAX.
  tf.config.set_visible_devices([], "GPU")
  lengths = {"targets": sequence_length, "language_ids": sequence_length}
  dataset = seqio.get_mixture_or_task(mixture).get_dataset(
    sequence_length=lengths,
    split=split,
    shuffle=True,
    seed=seed,
    num_epochs=None,
    try_in_mem_cache=False,  # a hundred languages would fill the memory
  )
  converter = features.PackedDecoderConverter(pack=True)
  dataset = converter(dataset, task_feature_lengths=lengths)
  dataset = dataset.batch(batch_size, drop_remainder=True)
  dataset = dataset.skip(start_step).prefetch(2)
  options = tf.data.Options()
  options.deterministic = True
  return dataset.with_options(options).as_numpy_iterator()
