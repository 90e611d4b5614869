"""The public function of this op; the caller names the backend."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import target
from kernels.causal_attention import cudnn_gpu, reference, splash_tpu

BACKENDS = {
  "reference": reference.causal_attention,
  "splash_tpu": functools.partial(splash_tpu.causal_attention, interpret=False),
  "cudnn_gpu": cudnn_gpu.causal_attention,
}
# Of some of a row's queries: (what says which, query, key, value, segments of
# queries, segments of keys) -> output.
_OF_SHARD = {
  "reference": reference.of_slots,
  "splash_tpu": splash_tpu.attend,
  "cudnn_gpu": functools.partial(reference.of_slots, implementation="cudnn"),
}


def default_backend(dtype: str) -> str:
  """ "splash_tpu" on TPUs, "cudnn_gpu" on GPUs for bfloat16, else "reference"."""
  platform = target.platform()
  if platform == "tpu":
    return "splash_tpu"
  is_cudnn = platform == "gpu" and dtype == "bfloat16"
  return "cudnn_gpu" if is_cudnn else "reference"


def causal_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  segments: jax.Array,
  *,
  backend: str,
  mesh: Mesh | None,
  batch_axes: tuple[str, ...],
  head_axis: str | None,
  length_axis: str | None,
) -> jax.Array:
  """softmax(query key^T / sqrt(H)) value over earlier slots of the segment.

  Differentiable in query, key and value.

  Args:
    query: [B, T, N, H].
    key: [B, T, K, H]; K divides N.
    value: [B, T, K, H].
    segments: int32 [B, T], at least 0; attention does not cross them.
    backend: "splash_tpu", "cudnn_gpu" or "reference".
    mesh: on which the arrays are split; may be abstract inside jit. None on a
      single device, and for "reference", which the compiler splits.
    batch_axes: mesh axes over which B is split; () without a mesh.
    head_axis: mesh axis over which N and K are split, or None.
    length_axis: mesh axis over which T of the queries is split, or None. Each
      device then has all keys and values of its rows, and the last of these
      devices the most to do: it sees them all.

  Returns:
    [B, T, N, H] in the dtype of query.

  Raises:
    ValueError: if the backend is unknown or cannot run here, the shapes do not
      fit, or the mesh does not divide them.
  """
  target.check(backend, known=BACKENDS, otherwise="reference")
  B, T, N, H = query.shape
  K = key.shape[2]
  if (
    key.shape != (B, T, K, H)
    or value.shape != key.shape
    or segments.shape != (B, T)
    or N % K
  ):
    raise ValueError(
      f"query {query.shape}, key {key.shape}, value {value.shape} and segments "
      f"{segments.shape} do not fit; need [B, T, N, H], twice [B, T, K, H] with "
      "N a multiple of K, and [B, T]"
    )
  function = BACKENDS[backend]
  if mesh is None:
    return function(query, key, value, segments)
  num_row_shards = math.prod(mesh.shape[axis] for axis in batch_axes)
  num_head_shards = mesh.shape[head_axis] if head_axis else 1
  num_shards = mesh.shape[length_axis] if length_axis else 1
  if B % num_row_shards or K % num_head_shards or T % num_shards:
    raise ValueError(
      f"{B} rows, {K} key heads and {T} queries are not divisible by their "
      f"{num_row_shards}, {num_head_shards} and {num_shards} shards; change the "
      "batch, the model or the mesh"
    )
  keys = PartitionSpec(batch_axes, None, head_axis)
  rows = PartitionSpec(batch_axes)
  shard_map = functools.partial(
    jax.shard_map,
    mesh=mesh,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )
  if num_shards == 1:
    return shard_map(
      function, in_specs=(keys, keys, keys, rows), out_specs=keys
    )(query, key, value, segments)
  if backend == "splash_tpu":
    which = splash_tpu.make_kernel(
      length=T,
      num_heads=N // num_head_shards,
      num_shards=num_shards,
      interpret=False,
    )
    of_which = which.manual_sharding_spec(
      NamedSharding(mesh, PartitionSpec(None, length_axis))
    )
  else:
    which, of_which = jnp.arange(T), PartitionSpec(length_axis)
  queries = PartitionSpec(batch_axes, length_axis, head_axis)
  query_rows = PartitionSpec(batch_axes, length_axis)
  return shard_map(
    _OF_SHARD[backend],
    in_specs=(of_which, queries, keys, keys, query_rows, rows),
    out_specs=queries,
  )(which, query, key, value, segments, segments)
