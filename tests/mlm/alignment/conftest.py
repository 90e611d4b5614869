"""A decoder of two matrices, whose log-probabilities numpy can compute."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

VOCABULARY, WIDTH = 7, 4


def _apply(params, batch):
  return {
    "hidden": params["embedding"][batch["decoder_input_tokens"]],
    "unembedding": params["unembedding"],
  }


def _params(seed):
  rng = np.random.default_rng(seed)
  return {
    "embedding": jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32),
    "unembedding": jnp.asarray(
      rng.normal(size=(WIDTH, VOCABULARY)), jnp.float32
    ),
  }


def _batch(num_rows, seed):
  """Rows of 8 tokens, the last 6 with targets, 1 to 4 of them a response."""
  rng = np.random.default_rng(seed)
  weights = np.zeros((num_rows, 6), np.float32)
  for row, length in zip(weights, rng.integers(1, 5, num_rows)):
    row[2 : 2 + length] = 1
  return {
    "decoder_input_tokens": rng.integers(0, VOCABULARY, (num_rows, 8)),
    "decoder_target_tokens": rng.integers(0, VOCABULARY, (num_rows, 6)),
    "decoder_loss_weights": weights,
  }


def _logprobs(params, batch):
  """float64 [B, C, V]."""
  num_targets = batch["decoder_target_tokens"].shape[1]
  hidden = np.asarray(params["embedding"], np.float64)[
    batch["decoder_input_tokens"][:, -num_targets:]
  ]
  logits = hidden @ np.asarray(params["unembedding"], np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _token_logprobs(params, batch):
  """float64 [B, C], 0 outside of the response."""
  of_targets = np.take_along_axis(
    _logprobs(params, batch), batch["decoder_target_tokens"][..., None], -1
  )[..., 0]
  return of_targets * batch["decoder_loss_weights"]


def _entropy(params, batch):
  """float64 [B, C], in nats."""
  logprobs = _logprobs(params, batch)
  return -(np.exp(logprobs) * logprobs).sum(axis=-1)


@pytest.fixture
def toy():
  """apply, params(seed), batch(rows, seed); token_logprobs and entropy of
  (params, batch)."""
  return types.SimpleNamespace(
    apply=_apply,
    params=_params,
    batch=_batch,
    token_logprobs=_token_logprobs,
    entropy=_entropy,
  )
