"""One update, compiled once, and the placing of its batches."""

import bisect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import optimizers
from mlm.training import state as train_state


def make_train_step(
  *,
  loss_fn: Callable,
  optimizer: optimizers.Optimizer,
  mesh: Mesh,
  state_shardings: train_state.TrainState,
) -> Callable:
  """Builds the jitted update.

  The random key is fold_in(key(seed), step): a function of the step alone.

  Args:
    loss_fn: (params, frozen, batch, key) -> (scalar, metrics).
    optimizer: of `mlm.training.optimizers`.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    state_shardings: of `mlm.training.state.state_shardings`.

  Returns:
    step(state, frozen, batch, seed) -> (state, metrics), of `mlm.sharding.mesh.jit`:
    the mesh is in context where the loss is traced. The state given is
    donated: its arrays are gone afterwards. The metrics are the loss's, with
    grad_norm (before clipping) and learning_rate, replicated.
  """

  def step(state, frozen, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, frozen, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    one = jnp.float32(1)
    metrics = {
      **metrics,
      "grad_norm": (optax.global_norm(grads), one),
      "learning_rate": (optimizer.learning_rate(state.step), one),
    }
    params = optax.apply_updates(state.params, updates)
    return train_state.TrainState(state.step + 1, params, opt_state), metrics

  replicated = NamedSharding(mesh, PartitionSpec())
  return mesh_lib.jit(
    step,
    in_shardings=(state_shardings, None, None, None),
    out_shardings=(state_shardings, replicated),
    donate_argnums=0,
  )


def make_place(mesh: Mesh) -> Callable[[dict], dict]:
  """Builds the function that puts a whole batch on the mesh, split.

  Every host holds the whole batch and puts its own rows on its devices.

  Args:
    mesh: of `mlm.sharding.mesh.make_mesh`.

  Returns:
    {name: array [B, ...]} -> the same as jax arrays of `rules.tokens_sharding`.
    It raises ValueError if B is not divisible by the mesh axes that share the
    batch.
  """

  def place(batch):
    placed = {}
    for name, array in batch.items():
      array = np.asarray(array)
      rules.check_batch(array.shape[0], mesh)
      sharding = rules.tokens_sharding(mesh, array.shape)
      placed[name] = jax.make_array_from_callback(
        array.shape, sharding, array.__getitem__
      )
    return placed

  return place


def make_place_local(mesh: Mesh, batch_size: int) -> Callable[[dict], dict]:
  """Builds the function that puts this host's rows of a batch on the mesh.

  Args:
    mesh: of `mlm.sharding.mesh.make_mesh`.
    batch_size: B, rows over all hosts.

  Returns:
    {name: array [rows, ...]} with the rows of `rules.local_rows`, in its order
    -> {name: jax array [B, ...] of `rules.tokens_sharding`}. It raises
    ValueError if an array has another number of rows, or the mesh does not
    divide their length.

  Raises:
    ValueError: if the mesh does not divide the batch.
  """
  rows = rules.local_rows(mesh, batch_size)

  def place(batch):
    placed = {}
    for name, array in batch.items():
      if len(array) != len(rows):
        raise ValueError(
          f"{name} has {len(array)} rows, but this process holds {len(rows)} of "
          f"the {batch_size} of a batch; make those of rules.local_rows"
        )

      if array.ndim > 1:
        rules.check_lengths({name: array.shape[1]}, mesh)

      def part(index, array=array):
        first, stop, _ = index[0].indices(batch_size)
        at = bisect.bisect_left(rows, first)
        return array[at : at + stop - first, *index[1:]]

      shape = (batch_size, *array.shape[1:])
      placed[name] = jax.make_array_from_callback(
        shape, rules.tokens_sharding(mesh, shape), part
      )
    return placed

  return place
