"""Plain XLA over blocks of queries; any platform.

The bias and the logits exist for one block of queries at a time, and are
computed again backward: 4 B N T S H FLOPs forward and 12 B N T S H backward,
4 (B + 1) N C S bytes for a block of C queries.

Letters: B batch, T query length, S key length, N heads, H head width, C chunk.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.relative_attention import buckets, reference

CHUNK_QUERIES = 256


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
  chunk_queries: int,
) -> jax.Array:
  """As `reference.relative_attention`, `chunk_queries` at a time."""
  B, T, N, H = query.shape
  S = key.shape[1]
  C = min(chunk_queries, T)
  num_chunks = -(-T // C)
  padded = num_chunks * C
  query = jnp.pad(query, ((0, 0), (0, padded - T), (0, 0), (0, 0)))
  # No key has segment -1.
  query_segments = jnp.pad(
    query_segments, ((0, 0), (0, padded - T)), constant_values=-1
  )
  ids = buckets.bucket(
    np.arange(1 - padded, S),
    num_buckets=table.shape[1],
    max_distance=max_distance,
    is_causal=is_causal,
  )

  @jax.checkpoint
  def of_chunk(carry, chunk):
    query_BCNH, segments_BC, start = chunk
    delta = jnp.arange(S) - (start + jnp.arange(C))[:, None]
    mask = segments_BC[:, :, None] == key_segments[:, None, :]
    if is_causal:
      mask &= delta <= 0
    bias = table[:, jnp.asarray(ids)[delta + padded - 1]]
    return carry, reference.attend(query_BCNH, key, value, bias, mask)

  chunks = (
    query.reshape(B, num_chunks, C, N, H).swapaxes(0, 1),
    query_segments.reshape(B, num_chunks, C).swapaxes(0, 1),
    jnp.arange(num_chunks) * C,
  )
  _, output = jax.lax.scan(of_chunk, None, chunks)
  return output.swapaxes(0, 1).reshape(B, padded, N, H)[:, :T]
