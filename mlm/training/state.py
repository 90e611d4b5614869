"""What a training run carries from step to step, and where it lives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mlm.sharding import rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """State between two steps.

  Attributes:
    step: int32 scalar, the number of updates made so far.
    params: nested dict of arrays.
    opt_state: what the optimizer keeps.
  """

  step: Any
  params: Any
  opt_state: Any


def _initial(
  params: Any, optimizer: optax.GradientTransformation
) -> TrainState:
  return TrainState(jnp.int32(0), params, optimizer.init(params))


def abstract(
  *, init: Callable, optimizer: optax.GradientTransformation
) -> TrainState:
  """Shapes and dtypes of the state, without making an array."""
  return jax.eval_shape(lambda: _initial(init(jax.random.key(0)), optimizer))


def state_shardings(
  mesh: Mesh, logical_axes: Any, abstract_state: TrainState
) -> TrainState:
  """Where each array of the state lives.

  Params follow their logical axes. Whatever in the optimizer state is a tree
  like params follows them leaf by leaf where the shapes agree (the moments of
  Adam); all else, such as counts, is replicated.

  Args:
    mesh: of `mlm.sharding.mesh.make_mesh`.
    logical_axes: tree like params of tuples of logical axis names.
    abstract_state: of `abstract`.

  Returns:
    TrainState of NamedShardings.

  Raises:
    ValueError: if a dimension is not divisible by its mesh axes.
  """
  params = abstract_state.params
  replicated = NamedSharding(mesh, PartitionSpec())
  of_params = rules.named_shardings(mesh, logical_axes, params)
  structure = jax.tree.structure(params)

  def is_like_params(node):
    return jax.tree.structure(node) == structure

  def of_node(node):
    if not is_like_params(node):
      return replicated
    return jax.tree.map(
      lambda x, param, sharding: (
        sharding if x.shape == param.shape else replicated
      ),
      node,
      params,
      of_params,
    )

  return TrainState(
    step=replicated,
    params=of_params,
    opt_state=jax.tree.map(
      of_node, abstract_state.opt_state, is_leaf=is_like_params
    ),
  )


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
  """Abstract arrays that know where they live, as restoring needs them."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    abstract_tree,
    shardings,
  )


def create(
  *,
  init: Callable,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  shardings: TrainState,
) -> TrainState:
  """Initial state, born sharded: no device ever holds all of the params.

  Args:
    init: key -> params.
    optimizer: an optax gradient transformation.
    key: of the initial params.
    shardings: of `state_shardings`.
  """
  return jax.jit(
    lambda key: _initial(init(key), optimizer), out_shardings=shardings
  )(key)


def from_params(
  *,
  params: Any,
  optimizer: optax.GradientTransformation,
  shardings: TrainState,
) -> TrainState:
  """Initial state around existing params, such as those of an earlier job."""
  return jax.jit(
    lambda params: _initial(params, optimizer), out_shardings=shardings
  )(params)
