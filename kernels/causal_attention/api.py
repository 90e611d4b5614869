"""The public function of this op; the caller names the backend."""

import functools
import math

import jax
from jax.sharding import Mesh, PartitionSpec

from kernels import target
from kernels.causal_attention import cudnn_gpu, reference, splash_tpu

BACKENDS = {
  "reference": reference.causal_attention,
  "splash_tpu": functools.partial(splash_tpu.causal_attention, interpret=False),
  "cudnn_gpu": cudnn_gpu.causal_attention,
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
  if B % num_row_shards or K % num_head_shards:
    raise ValueError(
      f"{B} rows and {K} key heads are not divisible by their {num_row_shards} "
      f"and {num_head_shards} shards; change the batch or the mesh"
    )
  heads = PartitionSpec(batch_axes, None, head_axis)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(heads, heads, heads, PartitionSpec(batch_axes)),
    out_specs=heads,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(query, key, value, segments)
