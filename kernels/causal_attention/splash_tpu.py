"""jax's splash attention, with tiles set and lengths padded.

It skips tiles above the diagonal and shares a key head's tiles among its query
heads: 2 B N T T H FLOPs forward and 5 B N T T H backward, in one kernel each;
in HBM, besides inputs and outputs, one float32 for each query and head, and in
the backward pass a gradient of query for each block of keys, added up by XLA.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

# Its own default, 128, is slow; public trainers tune to 1024 to 2048.
_BLOCKS = (1024, 512, 256, 128)
_COMPUTE = 512  # keys of a tile that are worked on at once, at most


def causal_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  segments: jax.Array,
  *,
  interpret: bool,
) -> jax.Array:
  """As `reference.causal_attention`, for one TPU core.

  Args:
    query: [B, T, N, H].
    key: [B, T, K, H]; K divides N.
    value: [B, T, K, H].
    segments: int32 [B, T], at least 0.
    interpret: whether to emulate the kernels.
  """
  _, T, N, H = query.shape
  padded = -(-T // _BLOCKS[-1]) * _BLOCKS[-1]
  block = next(size for size in _BLOCKS if padded % size == 0)
  compute = min(block, _COMPUTE)
  attend = splash_attention.make_splash_mha_single_device(
    splash_attention.MultiHeadMask(
      [splash_attention.CausalMask((padded, padded))] * N
    ),
    block_sizes=splash_attention.BlockSizes(
      block_q=block,
      block_kv=block,
      block_kv_compute=compute,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_kv_dkv_compute=compute,
      use_fused_bwd_kernel=True,
    ),
    interpret=interpret,
  )

  def heads_first(x):
    x = jnp.pad(x, ((0, 0), (0, padded - T), (0, 0), (0, 0)))
    return x.swapaxes(1, 2)

  # Padding is a segment of its own; no row is without a key.
  segments = jnp.pad(segments, ((0, 0), (0, padded - T)), constant_values=-1)
  output = jax.vmap(attend)(
    heads_first(query * H**-0.5),
    heads_first(key),
    heads_first(value),
    splash_attention.SegmentIds(q=segments, kv=segments),
  )
  return output.swapaxes(1, 2)[:, :T].astype(query.dtype)
