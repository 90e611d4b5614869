"""Optimizers as optax transformations that also know their learning rate."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mlm.sharding import rules

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


_LEAST_SQUARE = 1e-30  # epsilon 1 and 2 of the paper's section 9
_LEAST_SCALE = 1e-3


class FactoredState(NamedTuple):
  """State of Adafactor.

  Attributes:
    step: int32 scalar, updates made.
    moments: tree like params of mean squares: {"rows", "columns"} of matrices,
      {"whole"} of the others.
  """

  step: jax.Array
  moments: Any


def _as_matrices(leaf: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """[..., inputs, outputs] with leading axes stacked; a vector is one row.

  Heads and their widths are one side of their matrix. What has no embed, or
  nothing else, is a vector: norms, biases, tables of distances.
  """
  if len(axes) != leaf.ndim:
    raise ValueError(
      f"a param of shape {leaf.shape} has the logical axes {axes}; give those "
      "of the model that is trained"
    )
  depth = rules.num_stacked(axes)
  stack, one = leaf.shape[:depth], leaf.shape[depth:]
  split = 0
  if len(one) > 1 and axes.count("embed") == 1:
    split = 1 if axes[depth] == "embed" else len(one) - 1
  return leaf.reshape(*stack, math.prod(one[:split]), math.prod(one[split:]))


def _mean_square(x: jax.Array) -> jax.Array:
  """Of each matrix, [..., 1, 1]."""
  return jnp.mean(x**2, axis=(-2, -1))[..., None, None]


def adafactor(
  *,
  learning_rate: Schedule,
  decay_exponent: float,
  clipping_threshold: float,
  min_dim_size_to_factor: int,
  logical_axes: Any,
) -> Optimizer:
  """Adafactor as T5 and mT5 were trained with: no momentum, no weight decay.

  For each matrix of each layer, at step t from 1 on, with d = 1 - t^-e:
  R, C <- d (R, C) + (1 - d) (row, column means of g^2 + 1e-30);
  u = g / sqrt(R C^T / mean(R)); u <- u / max(1, rms(u) / threshold);
  params <- params - rate * max(rms(params), 1e-3) * u.
  Vectors and small matrices keep the whole second moment instead of R and C.

  Args:
    learning_rate: step -> rate, relative to the size of the params.
    decay_exponent: e, > 0; 0.8 in the paper and T5.
    clipping_threshold: > 0, of the root mean square of an update; 1 in T5.
    min_dim_size_to_factor: both sides of a matrix that has R and C are at least
      this long; 128 in T5 and mT5. What t5x scans (umT5) it always factors: 1.
    logical_axes: tree like params of tuples of logical axis names. Stacked
      layers and experts are matrices of their own; heads and their widths are
      one side.

  Raises:
    ValueError: if a value is out of range; from init and update if the axes
      are not those of the params.

  Source: Shazeer & Stern 2018, algorithms 4 and 5, and t5x's adafactor.py.
  """
  if decay_exponent <= 0 or clipping_threshold <= 0:
    raise ValueError(
      f"decay_exponent {decay_exponent} and clipping_threshold "
      f"{clipping_threshold} must be above 0"
    )
  if min_dim_size_to_factor < 1:
    raise ValueError(
      f"min_dim_size_to_factor {min_dim_size_to_factor} must be 1 or more"
    )

  # The gradient is read again for every sum, behind a barrier: else arrays of
  # its size, squares and updates, are kept for two of them, or for the norm of
  # all gradients.
  again = jax.lax.optimization_barrier

  def init(params):
    def of_leaf(param, axes):
      x = _as_matrices(param, axes)
      if min(x.shape[-2:]) < min_dim_size_to_factor or x.shape[-2] == 1:
        return {"whole": jnp.zeros_like(x)}
      return {
        "rows": jnp.zeros(x.shape[:-1]),
        "columns": jnp.zeros((*x.shape[:-2], x.shape[-1])),
      }

    moments = jax.tree.map(of_leaf, params, logical_axes)
    return FactoredState(jnp.int32(0), moments)

  def update(grads, state, params):
    decay = 1 - (state.step + 1.0) ** -decay_exponent
    rate = learning_rate(state.step)

    def averaged(moment, mean):
      return decay * moment + (1 - decay) * (mean + _LEAST_SQUARE)

    def scaled(g, *factors):
      if len(factors) == 1:
        return g * factors[0]
      return g * factors[0][..., None] * factors[1][..., None, :]

    def of_leaf(grad, axes, moments, param):
      g, p = again((_as_matrices(grad, axes), _as_matrices(param, axes)))
      if "whole" in moments:
        moments = {"whole": averaged(moments["whole"], g**2)}
        factors = (moments["whole"] ** -0.5,)
      else:
        rows = averaged(moments["rows"], jnp.mean(g**2, -1))
        g, rows = again((g, rows))
        columns = averaged(moments["columns"], jnp.mean(g**2, -2))
        moments = {"rows": rows, "columns": columns}
        mean = jnp.mean(rows, -1, keepdims=True)
        factors = ((rows / mean) ** -0.5, columns**-0.5)
      scale = jnp.maximum(jnp.sqrt(_mean_square(p)), _LEAST_SCALE) * -rate
      rms = jnp.sqrt(_mean_square(scaled(g, *factors)))
      scale /= jnp.maximum(1, rms / clipping_threshold)
      g, scale, factors = again((g, scale, factors))
      change = scaled(g, *factors) * scale
      return change.reshape(grad.shape), moments

    structure = jax.tree.structure(grads)
    both = structure.flatten_up_to(
      jax.tree.map(of_leaf, grads, logical_axes, state.moments, params)
    )
    updates, moments = map(structure.unflatten, zip(*both))
    return updates, FactoredState(state.step + 1, moments)

  return Optimizer(init, update, learning_rate)
