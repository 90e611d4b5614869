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

  Params follow their logical axes. What in the optimizer state has the path
  and the shape of a param, at whatever depth, lives where that does (moments,
  of all params or some); all else, such as counts, is replicated.

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
  params_at = {
    path: (param.shape, sharding)
    for (path, param), sharding in zip(
      jax.tree.leaves_with_path(params), jax.tree.leaves(of_params)
    )
  }

  def of_leaf(path, leaf):
    for start in range(len(path)):
      shape, sharding = params_at.get(path[start:], (None, None))
      if shape == leaf.shape:
        return sharding
    return replicated

  return TrainState(
    step=replicated,
    params=of_params,
    opt_state=jax.tree.map_with_path(of_leaf, abstract_state.opt_state),
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
