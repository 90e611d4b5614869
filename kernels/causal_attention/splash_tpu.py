"""jax's splash attention, with tiles set and lengths padded.

It skips tiles above the diagonal and shares a key head's tiles among its query
heads: 2 B N T T H FLOPs forward and 5 B N T T H backward, in one kernel each;
in HBM, besides inputs and outputs, one float32 for each query and head, and in
the backward pass a gradient of query for each block of keys, added up by XLA.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

Kernel = splash_attention.splash_attention_kernel.SplashAttentionKernel

# Its own default, 128, is slow; public trainers tune to 1024 to 2048.
_BLOCKS = (1024, 512, 256, 128)
_COMPUTE = 512  # keys of a tile that are worked on at once, at most


def _block(length: int) -> int:
  return next(size for size in _BLOCKS if length % size == 0)


def make_kernel(
  *, length: int, num_heads: int, num_shards: int, interpret: bool
) -> Kernel:
  """A causal kernel of rows whose queries are split into shards.

  Args:
    length: T, a multiple of 128 num_shards.
    num_heads: N of a device.
    num_shards: parts of the queries, one a device; keys are whole.
    interpret: whether to emulate the kernel.

  Returns:
    A pytree, whose arrays say which tiles a shard sees; its manual_sharding_spec
    is how `jax.shard_map` gives each device its own.

  Raises:
    ValueError: if the length does not divide into tiles.
  """
  if length % (num_shards * _BLOCKS[-1]):
    raise ValueError(
      f"rows of {length} tokens over {num_shards} shards give {num_shards} x "
      f"{length / num_shards:g} queries; the kernel needs a multiple of "
      f"{_BLOCKS[-1]}: use rows of a multiple of {num_shards * _BLOCKS[-1]} "
      "tokens, or change the mesh"
    )
  queries, keys = _block(length // num_shards), _block(length)
  compute = min(keys, _COMPUTE)
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask(
      [splash_attention.CausalMask((length, length), shard_count=num_shards)]
      * num_heads
    ),
    block_sizes=splash_attention.BlockSizes(
      block_q=queries,
      block_kv=keys,
      block_kv_compute=compute,
      block_q_dkv=queries,
      block_kv_dkv=keys,
      block_kv_dkv_compute=compute,
      use_fused_bwd_kernel=True,
    ),
    head_shards=1,
    q_seq_shards=num_shards,
    interpret=interpret,
  )


def attend(
  kernel: Kernel,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_segments: jax.Array,
  key_segments: jax.Array,
) -> jax.Array:
  """Runs a kernel of `make_kernel` on one device.

  Args:
    kernel: a device's part of it.
    query: [B, T / num_shards, N, H].
    key: [B, T, K, H]; K divides N.
    value: [B, T, K, H].
    query_segments: int32 [B, T / num_shards].
    key_segments: int32 [B, T].

  Returns:
    [B, T / num_shards, N, H].
  """
  output = jax.vmap(kernel)(
    (query * query.shape[-1] ** -0.5).swapaxes(1, 2),
    key.swapaxes(1, 2),
    value.swapaxes(1, 2),
    splash_attention.SegmentIds(q=query_segments, kv=key_segments),
  )
  return output.swapaxes(1, 2).astype(query.dtype)


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
  _, T, N, _ = query.shape
  extra = -T % _BLOCKS[-1]
  kernel = make_kernel(
    length=T + extra, num_heads=N, num_shards=1, interpret=interpret
  )
  query, key, value = (
    jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)))
    for x in (query, key, value)
  )
  # Padding is a segment of its own; no row is without a key.
  segments = jnp.pad(segments, ((0, 0), (0, extra)), constant_values=-1)
  return attend(kernel, query, key, value, segments, segments)[:, :T]
