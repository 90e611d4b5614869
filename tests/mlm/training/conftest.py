"""A decoder without attention, small enough to differentiate by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

VOCABULARY, WIDTH = 32, 16


def _init(key):
  keys = jax.random.split(key, 2)
  return {
    "embedding": jax.random.normal(keys[0], (VOCABULARY, WIDTH)) * 0.1,
    "norm": {"scale": jnp.ones((WIDTH,))},
    "head": {"kernel": jax.random.normal(keys[1], (WIDTH, VOCABULARY)) * 0.1},
  }


def _apply(params, batch):
  embedded = params["embedding"][batch["decoder_input_tokens"]]
  return {
    "hidden": jnp.tanh(embedded) * params["norm"]["scale"],
    "unembedding": params["head"]["kernel"],
  }


class TinyModel(NamedTuple):
  init = staticmethod(_init)
  apply = staticmethod(_apply)
  logical_axes = staticmethod(
    lambda: {
      "embedding": ("vocab", "embed"),
      "norm": {"scale": ("embed",)},
      "head": {"kernel": ("embed", "vocab")},
    }
  )


def _batch(step, *, batch_size=8, length=6, vocabulary=VOCABULARY):
  generator = np.random.default_rng([7, step])
  shape = (batch_size, length)
  tokens = generator.integers(1, vocabulary, (batch_size, length + 1))
  weights = generator.integers(0, 2, shape).astype(np.float32)
  weights[:, 0] = 1
  return {
    "decoder_input_tokens": tokens[:, :-1].astype(np.int32),
    "decoder_target_tokens": tokens[:, 1:].astype(np.int32),
    "decoder_loss_weights": weights,
    "decoder_positions": np.tile(
      np.arange(length, dtype=np.int32), shape[:1]
    ).reshape(shape),
    "decoder_segment_ids": np.ones(shape, np.int32),
    "decoder_language_ids": np.tile(
      np.arange(batch_size, dtype=np.int32)[:, None] % 3, (1, length)
    ),
  }


@pytest.fixture
def tiny_model():
  return TinyModel()


@pytest.fixture
def make_batch():
  """step -> batch of random tokens with random weights, in 3 languages."""
  return _batch
