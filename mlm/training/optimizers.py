"""Optimizers as optax transformations that also know their learning rate.

Each function returns what makes an Optimizer for params of given logical axes:
some treat every matrix of a stacked or reshaped array by itself, and only the
axes tell where those are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mlm.sharding import rules
from mlm.training.schedules import Schedule


class Optimizer(NamedTuple):
  """An optax gradient transformation and its schedule.

  Attributes:
    init: params -> optimizer state.
    update: (gradients, state, params) -> (updates, state).
    learning_rate: step -> learning rate, for the metrics.
    metrics: state after an update -> further metrics of that update.
  """

  init: Callable
  update: Callable
  learning_rate: Schedule
  metrics: Callable = lambda state: {}


# Tree like params of tuples of logical axis names -> Optimizer.
MakeOptimizer = Callable[[Any], Optimizer]


def decayed(params: Any) -> Any:
  """True where weight decay applies: matrices, and not scales and biases.

  Layers are stacked, so those have two dimensions or more; their names tell.
  """

  def of_leaf(path, leaf):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and not name.endswith(("scale", "bias"))

  return jax.tree_util.tree_map_with_path(of_leaf, params)


def _check(
  betas: dict[str, float], weight_decay: float, max_grad_norm: float
) -> None:
  for name, beta in betas.items():
    if not 0 <= beta < 1:
      raise ValueError(f"{name} {beta} must be in [0, 1)")
  if max_grad_norm <= 0 or weight_decay < 0:
    raise ValueError(
      f"max_grad_norm {max_grad_norm} must be above 0 and weight_decay "
      f"{weight_decay} 0 or more"
    )


def adamw(
  *,
  learning_rate: Schedule,
  beta1: float,
  beta2: float,
  epsilon: float,
  weight_decay: float,
  max_grad_norm: float,
) -> MakeOptimizer:
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

  Returns:
    logical axes, which are not needed -> Optimizer.

  Raises:
    ValueError: if a value is out of range.

  Source: Loshchilov & Hutter 2019, algorithm 2.
  """
  _check({"beta1": beta1, "beta2": beta2}, weight_decay, max_grad_norm)
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
  optimizer = Optimizer(
    transformation.init, transformation.update, learning_rate
  )
  return lambda logical_axes: optimizer


def _dimension_numbers(axes: tuple[str, ...]) -> Any:
  """Sides of the matrices that Muon orthogonalises; optax's mark for others."""
  sides = None if "vocab" in axes else rules.matrix_sides(axes)
  if sides is None:
    return optax.MaskedNode()
  return contrib.MuonDimensionNumbers(*sides)


def muon(
  *,
  learning_rate: Schedule,
  beta: float,
  update_rms: float,
  beta1: float,
  beta2: float,
  epsilon: float,
  weight_decay: float,
  max_grad_norm: float,
) -> MakeOptimizer:
  """Muon for the matrices of the layers, `adamw` for all else.

  For each matrix [m, n] of each layer and expert, with M the momentum of g:
  O = five Newton–Schulz steps on (Nesterov) M, nearly U V^T of its SVD;
  params <- params - rate * (update_rms * sqrt(max(m, n)) * O
  + weight_decay * params). Tables over the vocabulary are Adam's.

  Args:
    learning_rate: step -> rate, of both.
    beta: decay of the momentum, in [0, 1).
    update_rms: root mean square of an update before the rate; 0.2 is Adam's, so
      that both share a rate.
    beta1: of Adam, as beta2, epsilon.
    beta2: of Adam.
    epsilon: of both.
    weight_decay: of both, multiplied by the rate.
    max_grad_norm: > 0; gradients of a larger norm are scaled down to it.

  Returns:
    logical axes -> Optimizer.

  Raises:
    ValueError: if a value is out of range.

  Source: Jordan et al. 2024 (Muon); Liu et al. 2025 (Muon is scalable for LLM
    training), section 2.2 for update_rms and the weight decay.
  """
  _check(
    {"beta": beta, "beta1": beta1, "beta2": beta2}, weight_decay, max_grad_norm
  )
  if update_rms <= 0:
    raise ValueError(f"update_rms {update_rms} must be above 0")

  adam = optax.adamw(
    learning_rate,
    b1=beta1,
    b2=beta2,
    eps=epsilon,
    weight_decay=weight_decay,
    mask=decayed,
  )

  def make(logical_axes):
    numbers, labels = (
      jax.tree.map(of_axes, logical_axes, is_leaf=rules.is_axes)
      for of_axes in (
        _dimension_numbers,
        lambda axes: "muon" if _dimension_numbers(axes) else "adam",
      )
    )

    def as_large_as_adams(updates, params):
      def of_matrices(update, sides):
        longest = max(
          math.prod(update.shape[place] for place in side) for side in sides
        )
        return update_rms * math.sqrt(longest) * update

      return jax.tree.map(of_matrices, updates, numbers)

    orthogonal = optax.chain(
      contrib.scale_by_muon(
        beta=beta, eps=epsilon, weight_dimension_numbers=numbers
      ),
      optax.stateless(as_large_as_adams),
      optax.add_decayed_weights(weight_decay),
      optax.scale_by_learning_rate(learning_rate),
    )
    transformation = optax.chain(
      optax.clip_by_global_norm(max_grad_norm),
      optax.partition({"muon": orthogonal, "adam": adam}, labels),
    )
    return Optimizer(transformation.init, transformation.update, learning_rate)

  return make


class SpikeState(NamedTuple):
  """State of `skipping_spikes`.

  Attributes:
    inner: of the optimizer.
    norms: float32 [window], gradient norms, that of update t at t % window.
    count: int32 scalar, updates seen.
    is_skipped: bool scalar, whether the last was skipped.
  """

  inner: Any
  norms: jax.Array
  count: jax.Array
  is_skipped: jax.Array


def skipping_spikes(
  *, optimizer: MakeOptimizer, window: int, num_deviations: float
) -> MakeOptimizer:
  """Makes no update where the gradient's norm is far above the recent ones.

  Skipped if norm > mean + num_deviations * standard deviation of the last
  `window` norms, once half a window is known. Skipped ones count in the window
  too, so a lasting change of level is accepted within it. What is not finite
  is not skipped: the loop stops there.

  Args:
    optimizer: the one whose updates are made or skipped; its own state stays
      where it was.
    window: norms to compare with, >= 4.
    num_deviations: > 0.

  Returns:
    logical axes -> Optimizer; its metrics have "skipped", the number of skipped
    updates.

  Raises:
    ValueError: if a value is out of range.

  Source: OLMo 2 (2025)'s skip-step optimizer in OLMo-core, 128 and 6, which
    looks at the loss as well.
  """
  if window < 4 or num_deviations <= 0:
    raise ValueError(
      f"window {window} must be 4 or more and num_deviations {num_deviations} "
      "above 0"
    )

  def make(logical_axes):
    made = optimizer(logical_axes)

    def init(params):
      norms = jnp.zeros(window, jnp.float32)
      return SpikeState(
        made.init(params), norms, jnp.int32(0), jnp.zeros((), bool)
      )

    def update(grads, state, params):
      norm = optax.global_norm(grads)
      known = jnp.arange(window) < state.count
      number = jnp.maximum(known.sum(), 1)
      mean = jnp.where(known, state.norms, 0).sum() / number
      squares = jnp.where(known, (state.norms - mean) ** 2, 0)
      limit = mean + num_deviations * jnp.sqrt(squares.sum() / number)
      is_spike = (
        jnp.isfinite(norm) & (norm > limit) & (state.count >= window // 2)
      )
      updates, inner = jax.lax.cond(
        is_spike,
        lambda: (jax.tree.map(jnp.zeros_like, grads), state.inner),
        lambda: made.update(grads, state.inner, params),
      )
      norms = state.norms.at[state.count % window].set(norm)
      return updates, SpikeState(inner, norms, state.count + 1, is_spike)

    def metrics(state):
      return {
        **made.metrics(state.inner),
        "skipped": (jnp.float32(state.is_skipped), None),
      }

    return Optimizer(init, update, made.learning_rate, metrics)

  return make
