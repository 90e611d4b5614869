"""Rollouts: keys by prompt, sample, step and seed, not by the batch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mlm.decoding import rollouts
from mlm.models import decoder
from tests import tiny_models

PAD, EOS = 0, 1
CONFIG = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=12,
  d_ff=16,
  num_heads=2,
  num_kv_heads=1,
  tie_embeddings=True,
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


@functools.cache  # and so compiled once
def _sampler(model, temperature=1.0, response_length=6, samples=3):
  return rollouts.make_sampler(
    model,
    response_length=response_length,
    samples_per_prompt=samples,
    temperature=temperature,
    eos_id=EOS,
    pad_id=PAD,
  )


def test_samples_do_not_depend_on_the_rest_of_the_batch(model, params):
  sample = _sampler(model)
  together = np.asarray(sample(params, PROMPTS, IDS, 7, 3).tokens)
  order = np.array([2, 0, 3, 1])
  shuffled = np.asarray(sample(params, PROMPTS[order], IDS[order], 7, 3).tokens)
  np.testing.assert_array_equal(shuffled, together[order])
  alone = np.asarray(sample(params, PROMPTS[1:2], IDS[1:2], 7, 3).tokens)
  np.testing.assert_array_equal(alone[0], together[1])


def test_samples_differ_by_index_step_and_seed(model, params):
  sample = _sampler(model)
  base = np.asarray(sample(params, PROMPTS, IDS, 7, 3).tokens)
  assert (base[:, 0] != base[:, 1]).any()
  assert (base != np.asarray(sample(params, PROMPTS, IDS, 7, 4).tokens)).any()
  assert (base != np.asarray(sample(params, PROMPTS, IDS, 8, 3).tokens)).any()
  np.testing.assert_array_equal(
    base, np.asarray(sample(params, PROMPTS, IDS, 7, 3).tokens)
  )


def test_bad_sizes_are_refused(model):
  with pytest.raises(ValueError, match="at least 1"):
    _sampler(model, samples=0)
  with pytest.raises(ValueError, match="temperature"):
    _sampler(model, temperature=-1)


def test_trimmed_prompts_keep_their_tokens_in_few_shapes(model, params):
  for prompts, length in ((PROMPTS[[0, 2]], 3), (PROMPTS, 4), (PROMPTS[:1], 2)):
    found = rollouts.trimmed(prompts, (2, 3, 4, 8), pad_id=PAD)
    np.testing.assert_array_equal(found, prompts[:, 4 - length :])
  wide = rollouts.trimmed(PROMPTS, (8,), pad_id=PAD)
  np.testing.assert_array_equal(wide[:, 4:], PROMPTS)
  assert not wide[:, :4].any()
  with pytest.raises(ValueError, match="4 tokens, the largest length is 3"):
    rollouts.trimmed(PROMPTS, (2, 3), pad_id=PAD)
  sample = _sampler(model)
  of_whole = sample(params, PROMPTS[[0, 2]], IDS[[0, 2]], 7, 3).tokens
  of_part = sample(
    params,
    rollouts.trimmed(PROMPTS[[0, 2]], (3,), pad_id=PAD),
    IDS[[0, 2]],
    7,
    3,
  ).tokens
  np.testing.assert_array_equal(of_part, of_whole)
