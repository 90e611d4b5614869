"""The public functions of this op; the caller names the backend."""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec

from kernels.relative_attention import chunked, pallas_tpu, reference

BACKENDS = {
  "reference": reference.relative_attention,
  "chunked": functools.partial(
    chunked.relative_attention, chunk_queries=chunked.CHUNK_QUERIES
  ),
  "pallas_tpu": pallas_tpu.relative_attention_on_this_chip,
}


def default_backend() -> str:
  """ "pallas_tpu" on a single TPU, "chunked" elsewhere.

  On several TPUs name "pallas_tpu" and call `sharded_relative_attention`.
  """
  if jax.default_backend() == "tpu" and jax.device_count() == 1:
    return "pallas_tpu"
  return "chunked"


def _checked(
  query, key, value, table, query_segments, key_segments, backend
) -> Callable:
  """The function of a backend, if it can run on these arrays here."""
  if backend not in BACKENDS:
    raise ValueError(
      f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}"
    )
  if backend == "pallas_tpu" and jax.default_backend() != "tpu":
    raise ValueError(
      f"backend 'pallas_tpu' needs a TPU but this process runs on "
      f"{jax.default_backend()!r}; choose 'chunked'"
    )
  B, _, N, H = query.shape
  fits = (
    key.shape == value.shape == (B, key.shape[1], N, H)
    and table.ndim == 2
    and table.shape[0] == N
    and query_segments.shape == query.shape[:2]
    and key_segments.shape == key.shape[:2]
  )
  if not fits:
    raise ValueError(
      f"query {query.shape}, key {key.shape}, value {value.shape}, table "
      f"{table.shape} and segments {query_segments.shape}, "
      f"{key_segments.shape} do not fit; need [B, T, N, H], twice "
      "[B, S, N, H], [N, buckets], [B, T] and [B, S]"
    )
  return BACKENDS[backend]


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
    backend: "chunked", "pallas_tpu" (one TPU) or "reference".

  Returns:
    [B, T, N, H] in the dtype of value.

  Raises:
    ValueError: if the backend is unknown or cannot run here, or the shapes do
      not fit.
  """
  operands = query, key, value, table, query_segments, key_segments
  function = _checked(*operands, backend)
  return function(*operands, max_distance=max_distance, is_causal=is_causal)


def sharded_relative_attention(
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
  mesh: Mesh,
  batch_axes: tuple[str, ...],
  head_axis: str,
) -> jax.Array:
  """`relative_attention` with every device on its own rows and heads.

  Args:
    query: as for `relative_attention`, like all operands.
    key: as above.
    value: as above.
    table: as above.
    query_segments: as above.
    key_segments: as above.
    max_distance: as above.
    is_causal: as above.
    backend: of each device.
    mesh: of the arrays; may be abstract inside jit.
    batch_axes: mesh axes over which B is split.
    head_axis: mesh axis over which N is split.

  Returns:
    [B, T, N, H], split as query.

  Raises:
    ValueError: as `relative_attention`, or if the mesh does not divide the rows
      or the heads.
  """
  operands = query, key, value, table, query_segments, key_segments
  function = _checked(*operands, backend)
  num_row_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
  for name, size, shards in (
    ("rows", query.shape[0], num_row_shards),
    ("heads", query.shape[2], mesh.shape[head_axis]),
  ):
    if size % shards:
      raise ValueError(
        f"{size} {name} are not divisible by their {shards} shards; change the "
        "batch or the mesh"
      )
  heads = PartitionSpec(batch_axes, None, head_axis)
  rows = PartitionSpec(batch_axes)
  return jax.shard_map(
    functools.partial(function, max_distance=max_distance, is_causal=is_causal),
    mesh=mesh,
    in_specs=(heads, heads, heads, PartitionSpec(head_axis), rows, rows),
    out_specs=heads,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(*operands)
