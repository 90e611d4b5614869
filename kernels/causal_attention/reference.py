"""The specification: jax.nn's attention, with all logits.

Cost: 4 B N T T H FLOPs forward, 8 backward; 4 B N T T bytes for the logits.

Letters: B batch, T length, N query heads, K key heads, H head width.
"""

import jax
import jax.numpy as jnp


def causal_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  segments: jax.Array,
  *,
  implementation: str = "xla",
) -> jax.Array:
  """softmax(query key^T / sqrt(H)) value over earlier slots of the segment.

  Args:
    query: [B, T, N, H].
    key: [B, T, K, H]; K divides N.
    value: [B, T, K, H].
    segments: int32 [B, T], at least 0.
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    [B, T, N, H].
  """
  mask = segments[:, None, :, None] == segments[:, None, None, :]
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=mask,
    is_causal=True,
    implementation=implementation,
  )


def of_slots(
  slots: jax.Array,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_segments: jax.Array,
  key_segments: jax.Array,
  *,
  implementation: str = "xla",
) -> jax.Array:
  """`causal_attention` of some of a row's queries.

  Args:
    slots: int32 [Q], where they stand in the row.
    query: [B, Q, N, H].
    key: [B, T, K, H]; K divides N.
    value: [B, T, K, H].
    query_segments: int32 [B, Q].
    key_segments: int32 [B, T].
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    [B, Q, N, H].
  """
  mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  mask &= slots[:, None] >= jnp.arange(key.shape[1])
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation=implementation
  )
