"""Recomputation policies, judged by the compiled program's memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.models import decoder, encdec, layers
from tests import tiny_models

DECODER = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=64,
  num_layers=8,
  d_model=64,
  d_ff=192,
  head_dim=16,
  tie_embeddings=True,
)
ENCODER_DECODER = dataclasses.replace(
  tiny_models.ENCODER_DECODER,
  vocab_size=64,
  num_encoder_layers=8,
  num_decoder_layers=8,
  d_model=64,
  d_ff=192,
  num_heads=4,
  head_dim=16,
  num_buckets=32,
  max_distance=128,
)


def _gradient(build, config, remat):
  model = build(dataclasses.replace(config, remat=remat))

  def loss(params, batch):
    return (model.apply(params, batch)["hidden"] ** 2).mean()

  return model, jax.jit(jax.grad(loss))


def _batch(shape):
  tokens = np.random.default_rng(0).integers(0, 64, shape).astype(np.int32)
  ones = np.ones_like(tokens)
  return {
    f"{side}_{name}": x
    for side in ("encoder", "decoder")
    for name, x in (("input_tokens", tokens), ("segment_ids", ones))
  } | {"decoder_positions": np.cumsum(ones, axis=1) - 1}


@pytest.mark.parametrize(
  "build, config",
  [(decoder.build, DECODER), (encdec.build, ENCODER_DECODER)],
  ids=["decoder", "encoder-decoder"],
)
def test_each_policy_needs_less_memory_than_the_one_before(build, config):
  """By at least a third: attention's squares, then the products, are gone."""
  batch = _batch((4, 128))
  temporary = []
  for remat in layers.REMAT:  # none, minimal, full
    model, gradient = _gradient(build, config, remat)
    params = jax.eval_shape(model.init, jax.random.key(0))
    memory = gradient.lower(params, batch).compile().memory_analysis()
    temporary.append(memory.temp_size_in_bytes)
  none, minimal, full = temporary
  assert minimal < none / 1.5
  assert full < minimal / 1.5


def test_policies_do_not_change_the_gradient():
  config = dataclasses.replace(DECODER, num_layers=2)
  batch = _batch((1, 8))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(decoder.build(config).init, jax.random.key(0)),
  )
  none, *others = (
    _gradient(decoder.build, config, remat)[1](params, batch)
    for remat in layers.REMAT
  )
  for other in others:
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      none,
      other,
    )
