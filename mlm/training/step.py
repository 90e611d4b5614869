"""One update, compiled once, and the placing of its batches."""

import bisect
import math
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


def check_microbatches(
  batch_size: int, num_microbatches: int, mesh: Mesh
) -> None:
  """Raises ValueError unless every part of a batch splits over the mesh."""
  if num_microbatches < 1:
    raise ValueError(f"num_microbatches {num_microbatches} must be 1 or more")
  shards = math.prod(mesh.shape[axis] for axis in rules.BATCH_AXES)
  if batch_size % (num_microbatches * shards):
    raise ValueError(
      f"global batch {batch_size} is not divisible by {num_microbatches} "
      f"micro-batches x {shards} shards of the mesh axes "
      f"{' x '.join(rules.BATCH_AXES)}; set BATCH_SIZE to a multiple of "
      f"{num_microbatches * shards}, or change NUM_MICROBATCHES or MESH_SHAPE"
    )


def _accumulated(loss_fn: Callable, num_microbatches: int, mesh: Mesh):
  """value_and_grad of a loss, one part of the batch after the other.

  Each device splits its own rows: part m has every row r with r mod M = m. A
  part counts by its loss_weight, so the sum is the mean of the whole batch.
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def split(x):
    check_microbatches(x.shape[0], num_microbatches, mesh)
    rows = x.shape[0] // num_microbatches
    return x.reshape(rows, num_microbatches, *x.shape[1:]).swapaxes(0, 1)

  def of_whole(params, frozen, batch, key):
    def of_part(part, key):
      (_, metrics), grads = grad_fn(params, frozen, part, key)
      if "loss_weight" not in metrics:
        raise ValueError(
          "this loss does not say its loss_weight, by which micro-batches are "
          "put together; set num_microbatches to 1"
        )
      weight = metrics["loss_weight"][0]
      return jax.tree.map(lambda g: weight * g, grads), metrics

    def add(sums, part):
      return jax.tree.map(jnp.add, sums, of_part(*part)), None

    parts = jax.tree.map(split, batch)
    keys = jax.random.split(key, num_microbatches)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts), key),
    )
    (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
    weight = jnp.maximum(metrics["loss_weight"][0], jnp.finfo(jnp.float32).tiny)
    return metrics, jax.tree.map(lambda g: g / weight, grads)

  return of_whole


def make_train_step(
  *,
  loss_fn: Callable,
  optimizer: optimizers.Optimizer,
  num_microbatches: int,
  mesh: Mesh,
  state_shardings: train_state.TrainState,
) -> Callable:
  """Builds the jitted update.

  The random key is fold_in(key(seed), step): a function of the step alone.

  Args:
    loss_fn: (params, frozen, batch, key) -> (scalar, metrics). With several
      micro-batches the scalar is a mean and its denominator is the numerator
      of the metric loss_weight.
    optimizer: of `mlm.training.optimizers`.
    num_microbatches: parts of a batch whose gradients are added up, one after
      the other, in the params' dtype; 1 for the whole batch at once. The mean
      is that of the whole batch; what is no mean of tokens, such as the
      load-balancing loss of routers, is computed in each part.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    state_shardings: of `mlm.training.state.state_shardings`.

  Returns:
    step(state, frozen, batch, seed) -> (state, metrics), of `mlm.sharding.mesh.jit`:
    the mesh is in context where the loss is traced. The state given is
    donated: its arrays are gone afterwards. The metrics are the loss's and the
    optimizer's, with grad_norm (before clipping) and learning_rate, replicated.

  Raises:
    ValueError: when traced with several micro-batches, if they or the mesh do
      not divide the batch, or the loss says no loss_weight.
  """

  def whole(params, frozen, batch, key):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, metrics), grads = grad_fn(params, frozen, batch, key)
    return metrics, grads

  gradients = whole
  if num_microbatches > 1:
    gradients = _accumulated(loss_fn, num_microbatches, mesh)

  def step(state, frozen, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    metrics, grads = gradients(state.params, frozen, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    one = jnp.float32(1)
    metrics = {
      **metrics,
      **optimizer.metrics(opt_state),
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
