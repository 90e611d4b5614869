"""Optimizers as optax transformations that also know their learning rate."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
  """An optax gradient transformation and its schedule.

  Attributes:
    init: params -> optimizer state.
    update: (gradients, state, params) -> (updates, state).
    learning_rate: step -> learning rate, for the metrics.
  """

  init: Callable
  update: Callable
  learning_rate: Schedule


def _check_warmup(peak: float, warmup_steps: int) -> None:
  if peak <= 0:
    raise ValueError(f"peak learning rate {peak} must be above 0")
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps {warmup_steps} must be 0 or more")


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
  if not 0 <= final_fraction <= 1:
    raise ValueError(f"final_fraction {final_fraction} must be in [0, 1]")

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


def decayed(params: Any) -> Any:
  """True where weight decay applies: matrices, and not scales and biases.

  Layers are stacked, so those have two dimensions or more; their names tell.
  """

  def of_leaf(path, leaf):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and not name.endswith(("scale", "bias"))

  return jax.tree_util.tree_map_with_path(of_leaf, params)


def adamw(
  *,
  learning_rate: Schedule,
  beta1: float,
  beta2: float,
  epsilon: float,
  weight_decay: float,
  max_grad_norm: float,
) -> Optimizer:
  """Adam with decoupled weight decay, after clipping by the global norm.

  g <- g * min(1, max_grad_norm / |g|); m, v the bias-corrected moments of g;
  params <- params - rate * (m / (sqrt(v) + epsilon) + weight_decay * params),
  the last term on `decayed` leaves only.

  Args:
    learning_rate: step -> rate.
    beta1: decay of the first moment, in [0, 1).
    beta2: decay of the second moment, in [0, 1).
    epsilon: added to the root of the second moment.
    weight_decay: multiplied by the rate, as in the paper's equation 12 with
      the schedule inside.
    max_grad_norm: > 0; gradients of a larger norm are scaled down to it.

  Raises:
    ValueError: if a value is out of range.

  Source: Loshchilov & Hutter 2019, algorithm 2.
  """
  if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
    raise ValueError(f"beta1 {beta1} and beta2 {beta2} must be in [0, 1)")
  if max_grad_norm <= 0 or weight_decay < 0:
    raise ValueError(
      f"max_grad_norm {max_grad_norm} must be above 0 and weight_decay "
      f"{weight_decay} 0 or more"
    )
  transformation = optax.chain(
    optax.clip_by_global_norm(max_grad_norm),
    optax.adamw(
      learning_rate,
      b1=beta1,
      b2=beta2,
      eps=epsilon,
      weight_decay=weight_decay,
      mask=decayed,
    ),
  )
  return Optimizer(transformation.init, transformation.update, learning_rate)
