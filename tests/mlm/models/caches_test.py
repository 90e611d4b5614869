"""Caches: rows that share a prompt's slots, without a copy for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mlm.models import caches, decoder
from tests import tiny_models

L, K, H, P = 2, 2, 64, 512
CONFIG = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=16,
  num_layers=L,
  d_model=32,
  d_ff=32,
  num_kv_heads=K,
  head_dim=H,
  tie_embeddings=True,
)


def test_decoding_needs_less_memory_than_a_prompts_cache_for_each_row():
  """Compiled: all temporaries together, against one layer's copies."""
  model, rows = decoder.build(CONFIG), 16

  def extend(params, cache, tokens):
    return model.extend(
      params, cache, tokens, tokens, jnp.ones_like(tokens, bool)
    )

  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
  cache = caches.fork(model.init_cache(1, P), rows_per_prompt=rows, length=4)
  lowered = jax.jit(extend, donate_argnums=1).lower(params, cache, tokens)
  temporary = lowered.compile().memory_analysis().temp_size_in_bytes
  copies = 2 * rows * P * K * H * 4
  assert temporary < copies / 3


def test_rows_take_the_places_they_are_given():
  cache = caches.fork(
    decoder.build(CONFIG).init_cache(2, P), rows_per_prompt=2, length=3
  )
  marks = np.arange(4.0)
  cache["keys"] += marks[:, None, None, None]
  cache["values"] -= marks[:, None, None, None]
  moved = caches.reorder(cache, jnp.array([1, 1, 2, 3]))
  np.testing.assert_array_equal(moved["keys"][0, :, 0, 0, 0], [1, 1, 2, 3])
  np.testing.assert_array_equal(
    moved["values"][1, :, 2, 1, 5], [-1, -1, -2, -3]
  )
  assert moved["prompt_keys"] is cache["prompt_keys"]
