"""UL2's mixture of denoisers as an objective.

Every denoiser is span corruption of `objectives.corrupt` with its own density
and mean span, behind a token that names its mode. The last mode, S, hides one
span, which then is the end of the window: a prefix to go on from.

The model needs ids behind the tokenizer's pieces, counted from its last one
down: a token for each mode, R, X and S, then a sentinel for each hidden span
(`num_extra_ids`; 98 for inputs of 512 and `published_denoisers`, 192 for 1,024).

Source: Tay et al. 2023 (UL2), section 3.1 and Table 1.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from mlm.data import objectives
from mlm.tokenizers import special

MODES = ("R", "X", "S")


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """One way to hide a part of a window.

  Attributes:
    mode: one of MODES; names the token in front.
    noise_density: share of the tokens to hide.
    mean_span: mean tokens a hidden span; infinity for a single one, at the end.
  """

  mode: str
  noise_density: float
  mean_span: float


def published_denoisers() -> tuple[Denoiser, ...]:
  """Seven, each as likely as the others.

  That the paper weighs them equally is known to us from others and not checked
  in its text.
  """
  return (
    Denoiser("R", 0.15, 3),
    Denoiser("R", 0.15, 8),
    Denoiser("X", 0.5, 3),
    Denoiser("X", 0.5, 8),
    Denoiser("X", 0.5, 64),
    Denoiser("X", 0.15, 64),
    Denoiser("S", 0.25, math.inf),
  )


def _lengths(raw_length: int, denoiser: Denoiser) -> tuple[int, int]:
  """(inputs, targets) of a window, mode token and EOS included."""
  noise, spans = objectives.noise_lengths(
    raw_length,
    noise_density=denoiser.noise_density,
    mean_span=denoiser.mean_span,
  )
  return raw_length - noise + spans + 2, noise + spans + 1


def encoder_decoder_lengths(
  inputs_length: int, denoisers: Sequence[Denoiser]
) -> tuple[int, int]:
  """(raw length, targets length): the longest window whose inputs fit always.

  Raises:
    ValueError: if no window is that short.
  """
  raw = _longest(
    lambda raw: max(_lengths(raw, of)[0] for of in denoisers), inputs_length
  )
  return raw, max(_lengths(raw, of)[1] for of in denoisers)


def _longest(needed: Callable[[int], int], length: int) -> int:
  raw = 1
  while needed(raw + 1) <= length:
    raw += 1
  if raw < 2:
    raise ValueError(f"rows of {length} are too short to corrupt a window")
  return raw


def num_extra_ids(raw_length: int, denoisers: Sequence[Denoiser]) -> int:
  """Ids that the model needs behind the tokenizer's pieces."""
  spans = (
    objectives.noise_lengths(
      raw_length, noise_density=of.noise_density, mean_span=of.mean_span
    )[1]
    for of in denoisers
  )
  return len(MODES) + max(spans)


def _corruption(
  denoisers: Sequence[Denoiser],
  vocab_size: int,
) -> Callable:
  """(tokens, rng) -> (inputs, targets) of a denoiser that rng draws."""
  unknown = sorted({of.mode for of in denoisers} - set(MODES))
  if unknown:
    raise ValueError(f"unknown modes {unknown}; use {', '.join(MODES)}")

  def corrupt(tokens, rng):
    denoiser = denoisers[rng.integers(len(denoisers))]
    if len(tokens) < 2:  # a language of one token
      inputs, targets = tokens, np.array([special.EOS_ID])
    else:
      inputs, targets = objectives.corrupt(
        tokens,
        rng,
        noise_density=denoiser.noise_density,
        mean_span=denoiser.mean_span,
        first_sentinel=vocab_size - 1 - len(MODES),
      )
    mode = vocab_size - 1 - MODES.index(denoiser.mode)
    return np.concatenate([[mode], inputs]), targets

  return corrupt


def _extra_ids(raw_length, denoisers, vocab_size) -> range:
  return range(vocab_size - num_extra_ids(raw_length, denoisers), vocab_size)


def _settings(name, length, denoisers, vocab_size) -> dict:
  return {
    "objective": name,
    "length": length,
    "denoisers": [
      f"{of.mode} {of.noise_density} {of.mean_span}" for of in denoisers
    ],
    "vocab_size": vocab_size,
  }


def encoder_decoder(
  *,
  inputs_length: int,
  denoisers: Sequence[Denoiser],
  vocab_size: int,
) -> objectives.Objective:
  """UL2 for an encoder-decoder.

  All windows are of one length, so that no text is lost whatever the denoiser:
  the longest whose inputs fit, while the decoder has room for the longest
  targets. With `published_denoisers` and inputs of 512 these are windows of 567 tokens and targets
  of 380; 81 % of the encoder's positions and 53 % of the decoder's are real
  (`indexed.real_shares`).

  Args:
    inputs_length: of the encoder, mode token and EOS included.
    denoisers: as likely as each other; name one twice to double its weight.
    vocab_size: of the model; modes and sentinels are its last ids.

  Raises:
    ValueError: if rows are too short, or a mode is unknown.
  """
  raw_length, targets_length = encoder_decoder_lengths(inputs_length, denoisers)
  corrupt = _corruption(denoisers, vocab_size)

  def features(tokens, rng):
    inputs, targets = corrupt(tokens, rng)
    return objectives.encoder_decoder_features(
      inputs,
      targets,
      inputs_length=inputs_length,
      targets_length=targets_length,
    )

  return objectives.Objective(
    raw_length,
    features,
    _extra_ids(raw_length, denoisers, vocab_size),
    _settings("ul2_encoder_decoder", inputs_length, denoisers, vocab_size),
  )


def decoder_only(
  *,
  length: int,
  denoisers: Sequence[Denoiser],
  vocab_size: int,
) -> objectives.Objective:
  """UL2 for a decoder: inputs, then targets in one row, loss on the targets.

  The inputs are the prefix of `objectives.prefix_features`, with its caveat.

  Args:
    length: of the rows; fits every denoiser.
    denoisers: as of `encoder_decoder`.
    vocab_size: of the model; modes and sentinels are its last ids.

  Raises:
    ValueError: as `encoder_decoder`.
  """
  raw_length = _longest(
    lambda raw: max(sum(_lengths(raw, of)) for of in denoisers), length
  )
  corrupt = _corruption(denoisers, vocab_size)

  def features(tokens, rng):
    inputs, targets = corrupt(tokens, rng)
    return objectives.prefix_features(
      np.concatenate([inputs, targets]), cut=len(inputs), length=length
    )

  return objectives.Objective(
    raw_length,
    features,
    _extra_ids(raw_length, denoisers, vocab_size),
    _settings("ul2_decoder_only", length, denoisers, vocab_size),
  )
