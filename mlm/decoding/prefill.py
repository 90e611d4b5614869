"""Prompts read once, then one token of each row at a time, for both families.

A decoder reads the prompt; an encoder–decoder encodes it and reads its start
token. The k rows that continue a prompt share what was read.

Letters: B prompts, P prompt columns, N = B k rows, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.models import caches, decoder, encdec

# Decoder inputs of an encoder–decoder start with it, as its targets do.
_START_ID = 0


def check_prompts(
  model: decoder.Model | encdec.EncoderDecoder, prompts: Any, pad_id: int
) -> None:
  """Raises ValueError unless there is something to continue in every row.

  Args:
    model: decides where padding may be: left of a decoder's prompt, anywhere
      in an encoder's input.
    prompts: int32 [B, P], host or device array.
    pad_id: token of the padding.
  """
  if isinstance(prompts, jax.Array):
    parts = [np.asarray(s.data) for s in prompts.addressable_shards]
  else:
    parts = [np.asarray(prompts)]
  for rows in parts:
    if not np.all(np.any(rows != pad_id, axis=1)):
      raise ValueError(
        f"a prompt is empty: a row holds only pad_id {pad_id}; drop the row or "
        "give it a token"
      )
    if isinstance(model, decoder.Model) and np.any(rows[:, -1] == pad_id):
      raise ValueError(
        f"a prompt ends with pad_id {pad_id}: a decoder continues the last "
        "column; pad prompts on the left"
      )


def _logits_of(outputs: dict) -> jax.Array:
  """Float32 logits [B, V] at the last column."""
  return jnp.einsum(
    "BD,DV->BV",
    outputs["hidden"][:, -1],
    outputs["unembedding"],
    preferred_element_type=jnp.float32,
  )


def read(
  model: decoder.Model | encdec.EncoderDecoder,
  params: Any,
  prompts: jax.Array,
  *,
  pad_id: int,
) -> tuple[jax.Array, dict, jax.Array]:
  """Reads the prompts.

  Args:
    model: of `mlm.models.decoder` or `mlm.models.encdec`.
    params: of the model.
    prompts: int32 [B, P], a decoder's left-padded.
    pad_id: token of the padding.

  Returns:
    (float32 logits [B, V] of the first token, full cache of B rows, the first
    token's position in each row int32 [B]).
  """
  valid = prompts != pad_id
  if isinstance(model, encdec.EncoderDecoder):
    encoded = model.encode(params, prompts, valid.astype(jnp.int32))
    cache = model.init_cache(params, encoded, valid, 1)
    tokens = jnp.full_like(prompts[:, :1], _START_ID)
    valid = jnp.ones_like(tokens, bool)
  else:
    cache = model.init_cache(*prompts.shape)
    tokens = prompts
  positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  outputs, cache = model.extend(params, cache, tokens, positions, valid)
  return _logits_of(outputs), cache, valid.sum(axis=1)


def prefill(
  model: decoder.Model | encdec.EncoderDecoder,
  params: Any,
  prompts: jax.Array,
  *,
  rows_per_prompt: int,
  length: int,
  pad_id: int,
) -> tuple[jax.Array, dict, jax.Array]:
  """Reads the prompts, for several rows to continue each.

  Args:
    model: as in `read`.
    params: of the model.
    prompts: as in `read`.
    rows_per_prompt: k.
    length: tokens that each row will extend the cache by.
    pad_id: token of the padding.

  Returns:
    As `read`; the cache is of N rows, and so are the positions, int32 [N].
  """
  logits, cache, starts = read(model, params, prompts, pad_id=pad_id)
  cache = caches.fork(cache, rows_per_prompt=rows_per_prompt, length=length)
  return logits, cache, jnp.repeat(starts, rows_per_prompt)


def next_logits(
  model: decoder.Model | encdec.EncoderDecoder,
  params: Any,
  cache: dict,
  tokens: jax.Array,
  positions: jax.Array,
  valid: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
  """Float32 logits [N, V] after one more token a row, and the cache.

  Args:
    model: as in `read`.
    params: of the model.
    cache: of `prefill`, or in pages, or of the call before.
    tokens: int32 [N].
    positions: int32 [N].
    valid: bool [N], the rows that have a token; None for all.
  """
  if valid is None:
    valid = jnp.ones(len(tokens), bool)
  outputs, cache = model.extend(
    params, cache, tokens[:, None], positions[:, None], valid[:, None]
  )
  return _logits_of(outputs), cache
