"""The public functions of this op; the caller names the backend."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from kernels import target
from kernels.paged_attention import ragged_tpu, reference

BACKENDS = {"reference": reference.attend, "ragged_tpu": ragged_tpu.attend}


def default_backend() -> str:
  """ "ragged_tpu" on TPUs, "reference" elsewhere."""
  return "ragged_tpu" if target.platform() == "tpu" else "reference"


def paged_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  pages: jax.Array,
  table: jax.Array,
  lengths: jax.Array,
  is_new: jax.Array,
  *,
  backend: str,
  mesh: Mesh | None,
  batch_axes: tuple[str, ...],
  head_axis: str | None,
) -> tuple[jax.Array, jax.Array]:
  """Writes one token a row into its pages and attends to those so far.

  softmax(query key^T / sqrt(H)) value over a row's first slots, the new token
  among them. Not differentiable on TPUs.

  Args:
    query: [N, n, H].
    key: [N, K, H]; K divides n.
    value: [N, K, H].
    pages: [P, S, 2 K, H], of all rows; key head i is 2 i, its value head
      2 i + 1. Rows may share pages that none of them writes to.
    table: int32 [N, M], a row's pages in order. Split over batch_axes, rows use
      pages of their own shard alone.
    lengths: int32 [N], tokens that a row has already; below M S where is_new.
    is_new: bool [N]; other rows get no token, and attend to what they have, or
      to the first slot of their first page.
    backend: "ragged_tpu" or "reference".
    mesh: on which the arrays are split; may be abstract inside jit. None on a
      single device.
    batch_axes: mesh axes over which N and P are split; () without a mesh.
    head_axis: mesh axis over which n and K are split, or None.

  Returns:
    ([N, n, H] in the dtype of query, the pages). Given up by the caller, the
    pages are written in place.

  Raises:
    ValueError: if the backend is unknown or cannot run here, the shapes do not
      fit, or the mesh does not divide them.
  """
  target.check(backend, known=BACKENDS, otherwise="reference")
  N, n, H = query.shape
  K = key.shape[1]
  if (
    key.shape != (N, K, H)
    or value.shape != key.shape
    or pages.shape[2:] != (2 * K, H)
    or table.shape[:1] != (N,)
    or lengths.shape != (N,)
    or is_new.shape != (N,)
    or n % K
  ):
    raise ValueError(
      f"query {query.shape}, key {key.shape}, value {value.shape}, pages "
      f"{pages.shape}, table {table.shape}, lengths {lengths.shape} and is_new "
      f"{is_new.shape} do not fit; need [N, n, H], twice [N, K, H] with n a "
      "multiple of K, [P, S, 2 K, H], [N, M] and twice [N]"
    )

  def of_shard(query, key, value, pages, table, lengths, is_new):
    table = table - _first_page(pages, batch_axes)
    pages = reference.append(pages, key, value, table, lengths, is_new)
    seen = jnp.maximum(lengths + is_new, 1)
    return BACKENDS[backend](query, pages, table, seen), pages

  arguments = (query, key, value, pages, table, lengths, is_new)
  if mesh is None:
    return of_shard(*arguments)
  _check_divides(pages, mesh, batch_axes, head_axis, rows=N)
  heads = PartitionSpec(batch_axes, head_axis)
  of_pages = PartitionSpec(batch_axes, None, head_axis)
  rows = PartitionSpec(batch_axes)
  return jax.shard_map(
    of_shard,
    mesh=mesh,
    in_specs=(heads, heads, heads, of_pages, rows, rows, rows),
    out_specs=(heads, of_pages),
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(*arguments)


def write_pages(
  pages: jax.Array,
  indices: jax.Array,
  new: jax.Array,
  *,
  mesh: Mesh | None,
  batch_axes: tuple[str, ...],
  head_axis: str | None,
) -> jax.Array:
  """The pages with some of them replaced.

  Args:
    pages: [P, S, 2 K, H].
    indices: int32 [X], which; P and above for what is to be left out.
    new: [X, S, 2 K, H]; on a mesh every shard of the rows gets all of it and
      keeps its own.
    mesh: as in `paged_attention`.
    batch_axes: mesh axes over which P is split; () without a mesh.
    head_axis: mesh axis over which K is split, or None.

  Raises:
    ValueError: if the mesh does not divide them.
  """

  def of_shard(pages, indices, new):
    local = indices - _first_page(pages, batch_axes)
    # A negative index would count from the end.
    local = jnp.where(local < 0, len(pages), local)
    return pages.at[local].set(new.astype(pages.dtype), mode="drop")

  if mesh is None:
    return of_shard(pages, indices, new)
  _check_divides(pages, mesh, batch_axes, head_axis, rows=0)
  of_pages = PartitionSpec(batch_axes, None, head_axis)
  return jax.shard_map(
    of_shard,
    mesh=mesh,
    in_specs=(of_pages, PartitionSpec(), PartitionSpec(None, None, head_axis)),
    out_specs=of_pages,
    check_vma=False,
  )(pages, indices, new)


def _first_page(pages, batch_axes):
  """Of a shard's part of the pool, inside of shard_map."""
  return jax.lax.axis_index(batch_axes) * len(pages) if batch_axes else 0


def _check_divides(pages, mesh, batch_axes, head_axis, *, rows):
  num_row_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
  num_head_shards = mesh.shape[head_axis] if head_axis else 1
  num_heads = pages.shape[2] // 2
  if (
    rows % num_row_shards
    or len(pages) % num_row_shards
    or num_heads % num_head_shards
  ):
    raise ValueError(
      f"{rows} rows, {len(pages)} pages and {num_heads} key heads are not "
      f"divisible by their {num_row_shards}, {num_row_shards} and "
      f"{num_head_shards} shards; change the batch, the model or the mesh"
    )
