"""The specification: attention with the whole bias and all logits.

Cost: 4 B N T S H FLOPs forward, 8 B N T S H backward; 4 N T S bytes for the
bias and 4 B N T S for the logits.

Letters: B batch, T query length, S key length, N heads, H head width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.relative_attention import buckets

_LOWEST = -1e30  # -inf less -inf would be NaN where a query sees no key


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  bias_NTS: jax.Array,
  mask_BTS: jax.Array,
) -> jax.Array:
  """softmax(query key^T + bias) value over the keys that a query may see.

  The logits are not scaled, as in T5, whose initial query weights are. The
  softmax is in float32. A query that sees no key gets 0.

  Args:
    query: [B, T, N, H].
    key: [B, S, N, H].
    value: [B, S, N, H].
    bias_NTS: float32.
    mask_BTS: bool, True where a query may see a key.

  Returns:
    [B, T, N, H] in the dtype of value.
  """
  logits = jnp.einsum(
    "BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32
  )
  mask = mask_BTS[:, None]
  logits = jnp.where(mask, logits + bias_NTS, _LOWEST)
  maximum = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  weights = jnp.where(mask, jnp.exp(logits - maximum), 0.0)
  total = weights.sum(axis=-1, keepdims=True)
  weights /= jnp.where(total == 0, 1.0, total)
  return jnp.einsum(
    "BNTS,BSNH->BTNH",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  ).astype(value.dtype)


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
) -> jax.Array:
  """Attention with a bias table[head, bucket(key's slot - query's slot)].

  Positions do not restart in a segment, as in T5.

  Args:
    query: [B, T, N, H].
    key: [B, S, N, H].
    value: [B, S, N, H].
    table: float32 [N, buckets].
    query_segments: int32 [B, T], at least 0.
    key_segments: int32 [B, S], at least 0; a query sees keys of its segment.
    max_distance: of `buckets.bucket`.
    is_causal: whether a query sees no slot after its own.

  Returns:
    [B, T, N, H] in the dtype of value.
  """
  delta = np.arange(key.shape[1]) - np.arange(query.shape[1])[:, None]
  ids = buckets.bucket(
    delta,
    num_buckets=table.shape[1],
    max_distance=max_distance,
    is_causal=is_causal,
  )
  mask = query_segments[:, :, None] == key_segments[:, None, :]
  if is_causal:
    mask &= delta <= 0
  return attend(query, key, value, table[:, ids], mask)
