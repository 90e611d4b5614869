"""Rollouts: agreement with the full forward, and independence of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.decoding import rollouts
from mlm.models import decoder

PAD, EOS = 0, 1
CONFIG = decoder.DecoderConfig(
  vocab_size=12,
  num_layers=2,
  d_model=16,
  d_ff=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  position_encoding="rotary_halves",
  rope_theta=10000.0,
  rope_scaling=None,
  norm="rms",
  norm_epsilon=1e-5,
  mlp="swiglu",
  parallel_block=False,
  use_biases=False,
  normalize_embedding=False,
  tie_embeddings=True,
  logit_scale=1.0,
  activation_dtype="float32",
  remat="none",
)
PROMPTS = np.array(
  [[0, 0, 3, 4], [5, 6, 7, 8], [0, 9, 2, 3], [4, 4, 5, 5]], np.int32
)
IDS = np.array([11, 22, 33, 44], np.uint32)


@pytest.fixture(scope="module")
def model():
  return decoder.build(CONFIG)


@pytest.fixture(scope="module")
def params(model):
  params = model.init(jax.random.key(0))
  return {**params, "embedding": params["embedding"] * 40}


def _sampler(model, temperature=1.0, response_length=6, samples=3):
  return rollouts.make_sampler(
    model,
    response_length=response_length,
    samples_per_prompt=samples,
    temperature=temperature,
    eos_id=EOS,
    pad_id=PAD,
  )


def _next_logits(model, params, row):
  """Logits after a left-padded row, by the full forward."""
  real = row != PAD
  batch = {
    "decoder_input_tokens": row[None],
    "decoder_positions": np.maximum(np.cumsum(real) - 1, 0)[None],
    "decoder_segment_ids": real.astype(np.int32)[None],
  }
  outputs = model.apply(params, batch)
  return np.asarray(outputs["hidden"][0, -1] @ outputs["unembedding"])


def test_greedy_equals_argmax_of_the_full_forward(model, params):
  sample = _sampler(model, temperature=0)
  got = np.asarray(sample(params, PROMPTS, IDS, 0, 0))
  for prompt, responses in zip(PROMPTS, got):
    row, expected = prompt, []
    for _ in range(6):
      expected.append(int(_next_logits(model, params, row).argmax()))
      if expected[-1] == EOS:
        break
      row = np.append(row, expected[-1]).astype(np.int32)
    expected += [PAD] * (6 - len(expected))
    for response in responses:
      np.testing.assert_array_equal(response, expected)


def test_samples_do_not_depend_on_the_rest_of_the_batch(model, params):
  sample = _sampler(model)
  together = np.asarray(sample(params, PROMPTS, IDS, 7, 3))
  order = np.array([2, 0, 3, 1])
  shuffled = np.asarray(sample(params, PROMPTS[order], IDS[order], 7, 3))
  np.testing.assert_array_equal(shuffled, together[order])
  alone = np.asarray(sample(params, PROMPTS[1:2], IDS[1:2], 7, 3))
  np.testing.assert_array_equal(alone[0], together[1])


def test_samples_differ_by_index_step_and_seed(model, params):
  sample = _sampler(model, response_length=8)
  base = np.asarray(sample(params, PROMPTS, IDS, 7, 3))
  assert (base[:, 0] != base[:, 1]).any()
  assert (base != np.asarray(sample(params, PROMPTS, IDS, 7, 4))).any()
  assert (base != np.asarray(sample(params, PROMPTS, IDS, 8, 3))).any()
  np.testing.assert_array_equal(
    base, np.asarray(sample(params, PROMPTS, IDS, 7, 3))
  )


def test_nothing_follows_the_end(model, params):
  responses = np.asarray(
    _sampler(model, response_length=20, samples=16)(params, PROMPTS, IDS, 1, 0)
  ).reshape(-1, 20)
  ends = (responses == EOS).any(axis=1)
  assert ends.any()
  for response in responses[ends]:
    at = response.tolist().index(EOS)
    assert (response[at + 1 :] == PAD).all()


def test_first_tokens_follow_the_models_distribution(model, params):
  prompt, samples = PROMPTS[:1], 4000
  sample = _sampler(model, response_length=1, samples=samples)
  first = np.asarray(sample(params, prompt, IDS[:1], 5, 0))[0, :, 0]
  logits = _next_logits(model, params, prompt[0])
  expected = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
  observed = np.bincount(first, minlength=CONFIG.vocab_size) / samples
  # Four standard errors of a share.
  error = 4 * np.sqrt(expected * (1 - expected) / samples) + 1e-9
  assert (np.abs(observed - expected) <= error).all()


def test_bad_sizes_are_refused(model):
  with pytest.raises(ValueError, match="at least 1"):
    _sampler(model, samples=0)
  with pytest.raises(ValueError, match="temperature"):
    _sampler(model, temperature=-1)
