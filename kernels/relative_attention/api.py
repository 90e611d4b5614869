"""The public function of this op; the caller names the backend."""

import functools
import math

import jax
from jax.sharding import Mesh, PartitionSpec

from kernels import target
from kernels.relative_attention import chunked, pallas_tpu, reference

BACKENDS = {
  "reference": reference.relative_attention,
  "chunked": functools.partial(
    chunked.relative_attention, chunk_queries=chunked.CHUNK_QUERIES
  ),
  "pallas_tpu": pallas_tpu.relative_attention_on_this_chip,
}


def default_backend() -> str:
  """ "pallas_tpu" on TPUs, "chunked" elsewhere."""
  return "pallas_tpu" if target.platform() == "tpu" else "chunked"


def relative_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  table: jax.Array,
  query_segments: jax.Array,
  key_segments: jax.Array,
  *,
  max_distance: int,
  is_causal: bool,
  backend: str,
  mesh: Mesh | None,
  batch_axes: tuple[str, ...],
  head_axes: tuple[str, ...],
) -> jax.Array:
  """Attention with T5's relative-position bias; logits are not scaled.

  Differentiable in query, key, value and table. The bias of a query and a key
  is table[head, bucket(key's slot - query's slot)]; slots do not restart in a
  segment. A query that sees no key gets 0.

  Args:
    query: [B, T, N, H], any float dtype.
    key: [B, S, N, H].
    value: [B, S, N, H].
    table: float32 [N, buckets].
    query_segments: int32 [B, T], at least 0.
    key_segments: int32 [B, S], at least 0; a query sees keys of its segment.
    max_distance: slots from which on all distances share a bucket.
    is_causal: whether a query sees no slot after its own, and the buckets are
      all for those before.
    backend: "chunked", "pallas_tpu" or "reference".
    mesh: on which the arrays are split; may be abstract inside jit. None on a
      single device.
    batch_axes: mesh axes over which B is split; () without a mesh.
    head_axes: mesh axes over which N is split; () for none. The lengths are
      whole on every device: a bias is that of a distance between slots.

  Returns:
    [B, T, N, H] in the dtype of value.

  Raises:
    ValueError: if the backend is unknown or cannot run here, the shapes do not
      fit, or the mesh does not divide them.
  """
  target.check(backend, known=BACKENDS, otherwise="chunked")
  B, T, N, H = query.shape
  S = key.shape[1]
  if (
    key.shape != (B, S, N, H)
    or value.shape != key.shape
    or table.shape[:-1] != (N,)
    or query_segments.shape != (B, T)
    or key_segments.shape != (B, S)
  ):
    raise ValueError(
      f"query {query.shape}, key {key.shape}, value {value.shape}, table "
      f"{table.shape} and segments {query_segments.shape}, "
      f"{key_segments.shape} do not fit; need [B, T, N, H], twice "
      "[B, S, N, H], [N, buckets], [B, T] and [B, S]"
    )
  function = functools.partial(
    BACKENDS[backend], max_distance=max_distance, is_causal=is_causal
  )
  operands = query, key, value, table, query_segments, key_segments
  if mesh is None:
    return function(*operands)
  num_row_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
  num_head_shards = math.prod(mesh.shape[axis] for axis in head_axes)
  if B % num_row_shards or N % num_head_shards:
    raise ValueError(
      f"{B} rows and {N} heads are not divisible by their {num_row_shards} and "
      f"{num_head_shards} shards; change the batch or the mesh"
    )
  heads = PartitionSpec(batch_axes, None, head_axes)
  rows = PartitionSpec(batch_axes)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(heads, heads, heads, PartitionSpec(head_axes), rows, rows),
    out_specs=heads,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(*operands)
