"""Learning rates as functions of the step.

Each returns step -> learning rate, float32; all count steps from 0 and raise
ValueError where a value is out of range.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[Any], Any]


def _check_warmup(peak: float, warmup_steps: int) -> None:
  if peak <= 0:
    raise ValueError(f"peak learning rate {peak} must be above 0")
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps {warmup_steps} must be 0 or more")


def _check_fraction(final_fraction: float) -> None:
  if not 0 <= final_fraction <= 1:
    raise ValueError(f"final_fraction {final_fraction} must be in [0, 1]")


def _warmup(step: Any, warmup_steps: int) -> jax.Array:
  """(step + 1) / warmup_steps up to 1, so that no step has a rate of 0."""
  return jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))


def warmup_cosine(
  *, peak: float, warmup_steps: int, num_steps: int, final_fraction: float
) -> Schedule:
  """Linear warm-up to `peak`, then half a cosine to `final_fraction * peak`.

  Args:
    peak: largest learning rate, > 0.
    warmup_steps: steps of the ramp; step warmup_steps - 1 is the first at peak.
    num_steps: steps in all; the rate stays at the floor from there on.
    final_fraction: floor as a share of the peak, in [0, 1].

  Returns:
    step -> learning rate, float32.

  Raises:
    ValueError: if a value is out of range.

  Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts; with
    warm-up as for Llama 3 (Dubey et al. 2024, section 3.4).
  """
  _check_warmup(peak, warmup_steps)
  if warmup_steps >= num_steps:
    raise ValueError(
      f"warmup_steps {warmup_steps} must be below num_steps {num_steps}; "
      "shorten the warm-up or train longer"
    )
  _check_fraction(final_fraction)

  def learning_rate(step):
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    cosine = (1 + jnp.cos(math.pi * jnp.clip(progress, 0, 1))) / 2
    decay = final_fraction + (1 - final_fraction) * cosine
    return peak * _warmup(step, warmup_steps) * decay

  return learning_rate


def constant_with_warmup(*, peak: float, warmup_steps: int) -> Schedule:
  """Linear warm-up to `peak`, then constant.

  Args:
    peak: learning rate after the ramp, > 0.
    warmup_steps: steps of the ramp; step warmup_steps - 1 is the first at peak.

  Returns:
    step -> learning rate, float32.

  Raises:
    ValueError: if a value is out of range.
  """
  _check_warmup(peak, warmup_steps)
  return lambda step: peak * _warmup(step, warmup_steps)


def inverse_square_root(*, base: float, warmup_steps: int) -> Schedule:
  """base / sqrt(max(step, warmup_steps)), constant at first, without a ramp.

  Args:
    base: > 0; the largest rate is base / sqrt(warmup_steps).
    warmup_steps: steps at the largest rate, >= 1.

  Returns:
    step -> learning rate, float32.

  Raises:
    ValueError: if a value is out of range.

  Source: Raffel et al. 2020 (T5), section 3.1.2: base 1, 10,000 steps.
  """
  if base <= 0 or warmup_steps < 1:
    raise ValueError(
      f"base {base} must be above 0 and warmup_steps {warmup_steps} 1 or more"
    )
  return lambda step: (
    base / jnp.sqrt(jnp.maximum(jnp.float32(step), warmup_steps))
  )


def warmup_stable_decay(
  *,
  peak: float,
  warmup_steps: int,
  num_steps: int,
  decay_steps: int,
  final_fraction: float,
) -> Schedule:
  """Linear warm-up to `peak`, constant, then a line to `final_fraction * peak`.

  A run can go on from any checkpoint of the constant part with a larger
  num_steps: no earlier rate changes.

  Args:
    peak: largest learning rate, > 0.
    warmup_steps: steps of the ramp; step warmup_steps - 1 is the first at peak.
    num_steps: steps in all; the rate stays at the floor from there on.
    decay_steps: steps of the line down, >= 1, the last of num_steps.
    final_fraction: floor as a share of the peak, in [0, 1].

  Returns:
    step -> learning rate, float32.

  Raises:
    ValueError: if a value is out of range.

  Source: Hu et al. 2024 (MiniCPM), section 4.2, with a linear end.
  """
  _check_warmup(peak, warmup_steps)
  if decay_steps < 1 or warmup_steps + decay_steps > num_steps:
    raise ValueError(
      f"warmup_steps {warmup_steps} and decay_steps {decay_steps}, at least 1, "
      f"must fit into num_steps {num_steps}"
    )
  _check_fraction(final_fraction)

  def learning_rate(step):
    left = jnp.clip((num_steps - step) / decay_steps, 0, 1)
    line = final_fraction + (1 - final_fraction) * left
    return peak * _warmup(step, warmup_steps) * line

  return learning_rate
