"""Adafactor with the semantics of t5x, by the logical axes of the params."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlm.sharding import rules
from mlm.training.optimizers import MakeOptimizer, Optimizer
from mlm.training.schedules import Schedule

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
  """[..., inputs, outputs] with leading axes stacked; a vector is one row."""
  if len(axes) != leaf.ndim:
    raise ValueError(
      f"a param of shape {leaf.shape} has the logical axes {axes}; give those "
      "of the model that is trained"
    )
  depth = rules.num_stacked(axes)
  sides = rules.matrix_sides(axes) or ((), range(depth, leaf.ndim))
  sizes = [math.prod(leaf.shape[place] for place in side) for side in sides]
  return leaf.reshape(*leaf.shape[:depth], *sizes)


def _mean_square(x: jax.Array) -> jax.Array:
  """Of each matrix, [..., 1, 1]."""
  return jnp.mean(x**2, axis=(-2, -1))[..., None, None]


def adafactor(
  *,
  learning_rate: Schedule,
  decay_exponent: float,
  clipping_threshold: float,
  min_dim_size_to_factor: int,
) -> MakeOptimizer:
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

  Returns:
    logical axes of the params -> Optimizer. Stacked layers and experts are
    matrices of their own; heads and their widths are one side.

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

  def make(logical_axes):
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

  return make
