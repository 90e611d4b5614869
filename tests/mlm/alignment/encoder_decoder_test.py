"""RLOO and DPO with an encoder–decoder: sampled, gauged, and their gradients."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.alignment import dpo, estimators, rloo, rollout_batches
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.models import encdec
from mlm.tokenizers import special
from mlm.training import losses
from tests import tiny_models

BETA, RESPONSE_LENGTH, NUM_SAMPLES = 0.25, 6, 3
PAPER = estimators.paper(kl_coefficient=BETA)
PROMPTS = np.array(
  [[0, 0, 0, 3, 9, 4], [0, 3, 8, 7, 6, 4], [3, 9, 9, 5, 11, 4]], np.int32
)


@pytest.fixture(scope="module")
def mt5():
  """The model, and params(seed) under which every path matters."""
  model = encdec.build(
    dataclasses.replace(tiny_models.ENCODER_DECODER, vocab_size=12)
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0))

  def params(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
      lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes
    )

  return model, params


def _rollout(mt5):
  model, params = mt5
  return rollout_batches.make_rollout(
    prompts=lambda step: {
      "prompts": PROMPTS,
      "prompt_ids": np.arange(3, dtype=np.uint32) + step,
      "language_ids": np.array([0, 2, 1], np.int32),
    },
    sample=rollouts.make_sampler(
      model,
      response_length=RESPONSE_LENGTH,
      samples_per_prompt=NUM_SAMPLES,
      temperature=1.0,
      eos_id=special.EOS_ID,
      pad_id=special.PAD_ID,
    ),
    to_batch=lambda rows, ids: prompts.encoder_decoder_batch(
      rows, ids, prompt_length=PROMPTS.shape[1]
    ),
    place=lambda batch: batch,
    logprobs=rollout_batches.make_rollout_logprobs(
      model.apply, model.apply, backend="reference"
    ),
    reference=params(1),
    score=lambda rows, responses, ids: {
      "sum": responses.sum(axis=1).astype(np.float32)
    },
    reward_of_parts=lambda parts: parts["sum"],
    max_logprob_gap=1e-4,
    seed=3,
    eos_id=special.EOS_ID,
  )


def _whole_logprobs(model, params, tokens, targets):
  """[N, R] from whole logits, the prompts padded on the left."""
  inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  outputs = model.apply(
    params,
    {
      "encoder_input_tokens": tokens,
      "encoder_segment_ids": jnp.int32(tokens != special.PAD_ID),
      "decoder_input_tokens": inputs,
      "decoder_segment_ids": jnp.ones_like(inputs),
    },
  )
  logprobs = jax.nn.log_softmax(outputs["hidden"] @ outputs["unembedding"])
  found = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
  return found * (targets != special.PAD_ID)


def test_a_rloo_step_is_the_papers(mt5, tmp_path):
  """Log-probabilities, advantages and the gradient, from whole logits."""
  model, params = mt5
  rollout = _rollout(mt5)  # which refuses a gap above 1e-4
  policy = params(0)
  source = rloo.make_batch_source(
    rollout,
    policy_of=lambda params: params,
    estimator=PAPER,
    updates_per_rollout=1,
    history=str(tmp_path / "rewards"),
  )
  batch = source(types.SimpleNamespace(step=0, params=policy))
  assert 0 < batch["ended"].sum() < len(batch["ended"])  # padding, and none
  targets = jnp.asarray(batch["decoder_target_tokens"])
  tokens = jnp.asarray(np.repeat(PROMPTS, NUM_SAMPLES, axis=0))

  def logprobs(p):
    return _whole_logprobs(model, p, tokens, targets)

  np.testing.assert_allclose(
    batch["sampled_logprobs"], logprobs(policy), atol=1e-5
  )
  ratio = (logprobs(policy) - logprobs(params(1))).sum(axis=1)
  shaped = (targets.sum(axis=1) - BETA * ratio).reshape(-1, NUM_SAMPLES)
  others = (shaped.sum(axis=1, keepdims=True) - shaped) / (NUM_SAMPLES - 1)
  advantages = (shaped - others).reshape(-1)
  np.testing.assert_allclose(batch["advantages"], advantages, atol=1e-3)

  loss_fn = rloo.rloo_loss(
    model.apply, estimator=PAPER, backend="reference", num_languages=3
  )
  found = jax.jit(jax.grad(lambda p: loss_fn(p, None, batch, None)[0]))(policy)
  expected = jax.jit(
    jax.grad(lambda p: -jnp.mean(advantages * logprobs(p).sum(axis=1)))
  )(policy)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-3),
    found,
    expected,
  )


def test_dpo_of_the_reference_itself_costs_log_two(mt5):
  model, params = mt5
  rng = np.random.default_rng(0)
  responses = rng.integers(5, 12, (6, RESPONSE_LENGTH))
  responses[:, -1] = special.EOS_ID
  rows = np.concatenate([np.repeat(PROMPTS, 2, axis=0), responses], axis=1)
  batch = prompts.encoder_decoder_batch(
    rows, np.zeros(6), prompt_length=PROMPTS.shape[1]
  )
  batch["reference_logprobs"] = losses.sequence_logprobs(
    model.apply, params(0), batch, backend="reference"
  )
  np.testing.assert_allclose(
    batch["reference_logprobs"],
    _whole_logprobs(
      model, params(0), jnp.asarray(rows[:, :6]), jnp.asarray(responses)
    ).sum(axis=1),
    atol=1e-4,
  )
  batch["language_ids"] = np.zeros(6, np.int32)
  loss_fn = dpo.preference_loss(
    model.apply,
    objective=dpo.Objective(
      loss="logistic",
      beta=0.5,
      label_smoothing=0.0,
      per_token=False,
      sft_weight=0.0,
    ),
    backend="reference",
    num_languages=1,
  )
  loss, _ = loss_fn(params(0), None, batch, None)
  assert float(loss) == pytest.approx(np.log(2), abs=1e-6)
