"""From examples to packed decoder rows with the language of every token."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

_Spec = seqio.FeatureConverter.FeatureSpec


class PackedDecoderConverter(seqio.LMFeatureConverter):
  """seqio's packing converter for language models, with language ids.

  Task features "targets" and "language_ids" (registry index + 1) become the six
  arrays [T] of a batch row. Inputs are the targets shifted right inside each
  segment; padding has segment 0, weight 0 and language id 0.
  """

  TASK_FEATURES = {
    "targets": _Spec(dtype=tf.int32),
    "language_ids": _Spec(dtype=tf.int32),
  }
  MODEL_FEATURES = {
    "decoder_target_tokens": _Spec(dtype=tf.int32),
    "decoder_input_tokens": _Spec(dtype=tf.int32),
    "decoder_loss_weights": _Spec(dtype=tf.float32),
    "decoder_language_ids": _Spec(dtype=tf.int32),
  }

  def _convert_example(
    self, features: Mapping[str, tf.Tensor]
  ) -> Mapping[str, tf.Tensor]:
    row = super()._convert_example(features)
    return {
      **row,
      "decoder_loss_weights": tf.cast(row["decoder_loss_weights"], tf.float32),
      "decoder_language_ids": tf.maximum(features["language_ids"] - 1, 0),
    }

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    lengths = super().get_model_feature_lengths(task_feature_lengths)
    return {**lengths, "decoder_language_ids": task_feature_lengths["targets"]}
