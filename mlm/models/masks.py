"""Who may attend to whom: segments, causality, slots of a cache.

Letters: B rows, T query length, S key length.
"""

import jax
import jax.numpy as jnp


def same_segment(query_segments: jax.Array, key_segments: jax.Array):
  """Bool [B, T, S]: equal segment ids; int32 [B, T] and [B, S] are given."""
  return query_segments[:, :, None] == key_segments[:, None, :]


def causal(segments: jax.Array) -> jax.Array:
  """Bool [B, T, T]: tokens of the same segment, up to one's own."""
  length = segments.shape[1]
  lower = jnp.tril(jnp.ones((length, length), bool))
  return lower & same_segment(segments, segments)


def cached(cache: dict, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The mask of T new tokens over a cache of S slots, and its valid slots.

  Args:
    cache: {"valid": bool [B, S], "index": first slot to write, …}.
    valid: bool [B, T], which of the new tokens are real.

  Returns:
    (bool [B, T, S]: valid slots up to one's own; bool [B, S]).

  Raises:
    ValueError: if T exceeds S, or outside jit the slots that are left.
  """
  length, num_slots = valid.shape[1], cache["valid"].shape[1]
  index = cache["index"]
  taken = 0 if isinstance(index, jax.core.Tracer) else int(index)
  if taken + length > num_slots:
    raise ValueError(
      f"{length} tokens do not fit a cache of {num_slots} slots, of which "
      f"{taken} are taken; make it at least as long as prompt and response "
      "together"
    )
  now_valid = jax.lax.dynamic_update_slice_in_dim(
    cache["valid"], valid, index, axis=1
  )
  own_slots = index + jnp.arange(length)
  mask = now_valid[:, None, :] & (jnp.arange(num_slots) <= own_slots[:, None])
  return mask, now_valid
