"""From a window of tokens to the features of a row, in numpy.

An objective takes int32 [length] tokens of one language, documents in them
ended by EOS, and a random generator of the row; it returns features of fixed
length, the same ones for every row of a run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mlm.tokenizers import special


@dataclasses.dataclass(frozen=True)
class Objective:
  """How rows are made.

  Attributes:
    raw_length: tokens of text that a row takes, at most.
    features: (tokens, rng) -> {name: array [its length]}; int32 but the loss
      weights, float32.
    extra_ids: ids that rows have beside the tokenizer's: modes, sentinels.
    settings: what it was made of, as JSON; two objectives of equal settings
      make equal rows.
  """

  raw_length: int
  features: Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]
  extra_ids: range
  settings: dict[str, Any]


def check_ids(
  objective: Objective, *, num_pieces: int, vocab_size: int
) -> None:
  """Raises ValueError unless extra ids lie behind the pieces, in the model.

  Args:
    objective: of the rows.
    num_pieces: of the tokenizer.
    vocab_size: of the model.
  """
  extra = objective.extra_ids
  if extra and (extra.start < num_pieces or extra.stop > vocab_size):
    raise ValueError(
      f"the objective writes {len(extra)} ids, {extra.start} to {extra.stop - 1}, "
      f"which must lie behind the tokenizer's {num_pieces} pieces and in the "
      f"model's vocab_size {vocab_size}; a vocab_size of "
      f"{num_pieces + len(extra)} has room for them at its end"
    )


def row_shapes(objective: Objective) -> dict[str, int]:
  """Length of each feature of an objective's rows."""
  window = np.full(objective.raw_length, special.UNK_ID, np.int32)
  row = objective.features(window, np.random.default_rng(0))
  return {name: len(of) for name, of in row.items()}


def _padded(values: np.ndarray, length: int) -> np.ndarray:
  result = np.zeros(length, np.int32)
  result[: len(values)] = values
  return result


def _segments(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Segment ids from 1 and positions from 0; a document ends with its EOS."""
  starts = np.concatenate([[True], targets[:-1] == special.EOS_ID])
  segments = np.cumsum(starts)
  first = np.maximum.accumulate(np.where(starts, np.arange(len(targets)), 0))
  return segments, np.arange(len(targets)) - first


def _decoder_features(
  targets: np.ndarray, weights: np.ndarray, length: int
) -> dict[str, np.ndarray]:
  segments, positions = _segments(targets)
  # Inputs are shifted right inside each segment.
  inputs = np.concatenate([[0], targets[:-1]])
  inputs[positions == 0] = 0
  loss_weights = np.zeros(length, np.float32)
  loss_weights[: len(targets)] = weights
  return {
    "decoder_input_tokens": _padded(inputs, length),
    "decoder_target_tokens": _padded(targets, length),
    "decoder_loss_weights": loss_weights,
    "decoder_positions": _padded(positions, length),
    "decoder_segment_ids": _padded(segments, length),
  }


def causal(*, length: int) -> Objective:
  """Next-token prediction on rows of `length` tokens, documents packed."""

  def features(tokens, rng):
    del rng
    return _decoder_features(tokens, np.ones(len(tokens)), length)

  settings = {"objective": "causal", "length": length}
  return Objective(length, features, range(0), settings)


def prefix_features(
  tokens: np.ndarray, *, cut: int, length: int
) -> dict[str, np.ndarray]:
  """The features of a row that learns what is behind its first `cut` tokens.

  The row is one segment. "decoder_causal_attention" is 1 on the prefix and the
  first target position, as seqio's converter marks them, for a model that lets
  the prefix see all of itself. `mlm.models.decoder` does not read it: under it
  the prefix, too, sees only what is before it, and the row is a causal one with
  loss on its second part.
  """
  positions = np.arange(len(tokens))
  weights = np.zeros(length, np.float32)
  weights[cut : len(tokens)] = 1
  return {
    "decoder_input_tokens": _padded(np.concatenate([[0], tokens[:-1]]), length),
    "decoder_target_tokens": _padded(tokens, length),
    "decoder_loss_weights": weights,
    "decoder_positions": _padded(positions, length),
    "decoder_segment_ids": _padded(np.ones(len(tokens)), length),
    "decoder_causal_attention": _padded(positions <= cut, length),
  }


def prefix(*, length: int) -> Objective:
  """Next-token prediction behind a prefix of random length.

  The row is a window of text, a uniformly drawn part of which is the prefix,
  without loss; see `prefix_features`.

  Source: Raffel et al. 2020 (T5), section 3.2.1; seqio PrefixLM converter.
  """
  if length < 2:
    raise ValueError(f"length {length} leaves no room for prefix and target")

  def features(tokens, rng):
    cut = int(rng.integers(1, max(2, len(tokens))))
    return prefix_features(tokens, cut=cut, length=length)

  settings = {"objective": "prefix", "length": length}
  return Objective(length, features, range(0), settings)


def encoder_decoder_features(
  inputs: np.ndarray,
  targets: np.ndarray,
  *,
  inputs_length: int,
  targets_length: int,
) -> dict[str, np.ndarray]:
  """The features of an encoder-decoder row, by t5x's names.

  A row is one segment (ids 1, padding 0): documents in its window see each
  other, as in T5, which joins the documents of a task before it cuts them. T5
  joins them without a mark; ours keep the EOS between them.

  Args:
    inputs: int32 of at most `inputs_length`, what the encoder reads.
    targets: int32 of at most `targets_length`, what the decoder learns.
    inputs_length: of the encoder's features.
    targets_length: of the decoder's.
  """
  features = {
    "encoder_input_tokens": inputs,
    "encoder_positions": np.arange(len(inputs)),
    "encoder_segment_ids": np.ones(len(inputs)),
  }
  row = {name: _padded(of, inputs_length) for name, of in features.items()}
  features = {
    "decoder_input_tokens": np.concatenate([[0], targets[:-1]]),
    "decoder_target_tokens": targets,
    "decoder_positions": np.arange(len(targets)),
    "decoder_segment_ids": np.ones(len(targets)),
  }
  row |= {name: _padded(of, targets_length) for name, of in features.items()}
  weights = (row["decoder_segment_ids"] > 0).astype(np.float32)
  return {**row, "decoder_loss_weights": weights}


def noise_lengths(
  raw_length: int, *, noise_density: float, mean_span: float
) -> tuple[int, int]:
  """(noise tokens, spans) of a window, as T5 rounds them."""
  noise = min(max(round(raw_length * noise_density), 1), raw_length - 1)
  spans = min(max(round(noise / mean_span), 1), raw_length - noise)
  return noise, spans


def span_corruption_lengths(
  inputs_length: int, *, noise_density: float, mean_span: float
) -> tuple[int, int]:
  """(raw length, targets length) that fill inputs of a length, EOS included.

  Raises:
    ValueError: if no window is that short.

  Source: T5, random_spans_helper.
  """

  def lengths(raw):
    noise, spans = noise_lengths(
      raw, noise_density=noise_density, mean_span=mean_span
    )
    return raw - noise + spans + 1, noise + spans + 1

  raw = inputs_length
  if raw < 2 or lengths(raw)[0] > inputs_length:
    raise ValueError(f"inputs_length {inputs_length} is too short to corrupt")
  while lengths(raw + 1)[0] <= inputs_length:
    raw += 1
  targets_length = lengths(raw)[1]
  # T5 does not let targets outgrow inputs by one where half is noise.
  if noise_density == 0.5 and targets_length > inputs_length:
    raw, targets_length = raw - 1, targets_length - 1
  return raw, targets_length


def _span_lengths(
  total: int, parts: int, rng: np.random.Generator
) -> np.ndarray:
  """A uniformly drawn composition of `total` into positive parts, int64 [parts]."""
  cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(
  tokens: np.ndarray,
  rng: np.random.Generator,
  *,
  noise_density: float,
  mean_span: float,
  first_sentinel: int,
) -> tuple[np.ndarray, np.ndarray]:
  """T5's span corruption of a window.

  Spans of noise and of text alternate, text first, their lengths drawn
  uniformly. Each span of noise becomes a sentinel in the inputs, each span of
  text the same in the targets.

  Args:
    tokens: int32 [length], at least 2.
    rng: of the row.
    noise_density: share of the tokens to hide.
    mean_span: mean tokens a span of noise.
    first_sentinel: id of the first; the later count down from it.

  Returns:
    (inputs, targets), each with EOS at its end.

  Source: Raffel et al. 2020 (T5), section 3.1.4; t5, random_spans_noise_mask.
  """
  noise, spans = noise_lengths(
    len(tokens), noise_density=noise_density, mean_span=mean_span
  )
  lengths = np.empty(2 * spans, np.int64)
  lengths[0::2] = _span_lengths(len(tokens) - noise, spans, rng)
  lengths[1::2] = _span_lengths(noise, spans, rng)
  ends = np.cumsum(lengths)
  starts = ends - lengths
  is_noise = np.repeat(np.arange(2 * spans) % 2 == 1, lengths)
  sentinels = first_sentinel - np.arange(spans)
  eos = [special.EOS_ID]
  # Where a hidden span begins stands its sentinel, the rest of it goes.
  kept = ~is_noise
  kept[starts[1::2]] = True
  inputs = tokens.copy()
  inputs[starts[1::2]] = sentinels
  hidden = is_noise.copy()
  hidden[starts[0::2]] = True
  targets = tokens.copy()
  targets[starts[0::2]] = sentinels
  return (
    np.concatenate([inputs[kept], eos]),
    np.concatenate([targets[hidden], eos]),
  )


def span_corruption(
  *,
  inputs_length: int,
  noise_density: float,
  mean_span: float,
  first_sentinel: int,
) -> Objective:
  """T5's objective; rows of which inputs and targets are full.

  Args:
    inputs_length: of the encoder; the decoder's follows from it.
    noise_density: T5 and mT5: 0.15.
    mean_span: T5 and mT5: 3.
    first_sentinel: the largest of them; the others count down from it. mT5's
      is 250,099, its 250,100th id: what is behind it pads the table.
  """
  raw_length, targets_length = span_corruption_lengths(
    inputs_length, noise_density=noise_density, mean_span=mean_span
  )

  def features(tokens, rng):
    if len(tokens) < 2:  # a language of one token
      inputs, targets = tokens, np.array([special.EOS_ID])
    else:
      inputs, targets = corrupt(
        tokens,
        rng,
        noise_density=noise_density,
        mean_span=mean_span,
        first_sentinel=first_sentinel,
      )
    return encoder_decoder_features(
      inputs,
      targets,
      inputs_length=inputs_length,
      targets_length=targets_length,
    )

  _, spans = noise_lengths(
    raw_length, noise_density=noise_density, mean_span=mean_span
  )
  settings = {
    "objective": "span_corruption",
    "inputs_length": inputs_length,
    "noise_density": noise_density,
    "mean_span": mean_span,
    "first_sentinel": first_sentinel,
  }
  extra = range(first_sentinel - spans + 1, first_sentinel + 1)
  return Objective(raw_length, features, extra, settings)
