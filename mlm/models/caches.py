"""Caches whose prompt is shared by several rows, and rows put in a new order.

Letters: B prompts, k rows a prompt, P slots of the prompt, S further slots,
L layers, K key/value heads, H head width.
"""

import jax
import jax.numpy as jnp


def fork(cache: dict, *, rows_per_prompt: int, length: int) -> dict:
  """A cache of k rows for each row of a filled one, whose slots they share.

  What is in the cache is not repeated: it becomes "prompt_keys" and
  "prompt_values" of [L, B, P, K, H], and "keys" and "values" of
  [L, B k, S, K, H] take the slots from P on. The k rows of a prompt are
  neighbours.

  Args:
    cache: of a model's `extend`, all its slots written.
    rows_per_prompt: k.
    length: S, tokens that each row can take.
  """
  valid = jnp.repeat(cache["valid"], rows_per_prompt, axis=0)
  layers, _, _, *heads = cache["keys"].shape
  empty = jnp.zeros((layers, len(valid), length, *heads), cache["keys"].dtype)
  of_rows = {
    name: jnp.repeat(cache[name], rows_per_prompt, axis=0)
    for name in ("languages",)  # of adapters
    if name in cache
  }
  return {
    **cache,
    **of_rows,
    "prompt_keys": cache["keys"],
    "prompt_values": cache["values"],
    "keys": empty,
    "values": empty,
    "valid": jnp.pad(valid, ((0, 0), (0, length))),
  }


def reorder(cache: dict, rows: jax.Array) -> dict:
  """The cache whose row i is row rows[i], int32 [B k], of the same prompt."""
  return {
    **cache,
    "keys": jnp.take(cache["keys"], rows, axis=1),
    "values": jnp.take(cache["values"], rows, axis=1),
    "valid": jnp.take(cache["valid"], rows, axis=0),
  }


def of_layers(cache: dict) -> dict:
  """What the layers of self-attention read: keys and values, with a prompt's."""
  names = ("keys", "values", "prompt_keys", "prompt_values")
  return {name: cache[name] for name in names if name in cache}
