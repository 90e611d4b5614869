"""RLOO's loss on a decoder, and its batch source resumed."""

import dataclasses
import functools
import logging
import types

import jax
import numpy as np
import pytest

from mlm.alignment import estimators, rloo, rollout_batches
from mlm.data import prompts
from mlm.decoding import generate
from mlm.tokenizers import special

PAPER = estimators.paper(kl_coefficient=0.25)


def _batch(toy, params, advantages):
  rows = len(advantages)
  batch = toy.batch(rows, seed=1)
  logprobs = toy.token_logprobs(params, batch).astype(np.float32)
  scalars = {
    name: np.ones(rows, np.float32)
    for name in [
      "reward",
      "kl",
      "entropy",
      "length",
      "ended",
      "logprob_gap",
      "is_equal_group",
    ]
  }
  return {
    **batch,
    "sampled_logprobs": logprobs,
    "reference_logprobs": logprobs,
    "advantages": np.asarray(advantages, np.float32),
    "language_ids": np.arange(rows) % 3,
    **scalars,
  }


def _loss_fn(toy, **changes):
  return rloo.rloo_loss(
    toy.apply,
    estimator=dataclasses.replace(PAPER, **changes),
    backend="reference",
    num_languages=3,
  )


def test_loss_sums_over_the_response_and_averages_over_rows(toy):
  params, advantages = toy.params(0), [1.0, -0.5, 2.0, 0.25]
  batch = _batch(toy, params, advantages)
  loss, metrics = _loss_fn(toy)(params, None, batch, None)
  by_row = toy.token_logprobs(params, batch).sum(1)
  expected = -np.mean(np.array(advantages) * by_row)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for name in ("reward", "ended", "equal_groups"):
    numerator, denominator = metrics[f"{name}_by_language"]
    np.testing.assert_allclose(denominator, [2, 1, 1])
    np.testing.assert_allclose(numerator, [2, 1, 1])
  np.testing.assert_allclose(metrics["entropy_per_token"], [4, 4])
  assert "clipped" not in metrics


@pytest.mark.parametrize("ratio", ["none", "sequence", "token"])
def test_equal_rewards_give_zero_gradient(toy, ratio):
  equal = np.full((2, 2), 0.7)
  advantages = estimators.leave_one_out_advantages(equal).reshape(-1)
  batch = _batch(toy, toy.params(0), advantages)
  loss_fn = _loss_fn(toy, ratio=ratio)
  gradient = jax.grad(lambda p: loss_fn(p, None, batch, None)[0])
  for leaf in jax.tree.leaves(gradient(toy.params(0))):
    np.testing.assert_allclose(leaf, 0, atol=1e-7)


@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_at_the_first_update_a_ratio_changes_no_gradient(toy, ratio):
  params = toy.params(0)
  batch = _batch(toy, params, [1.0, -0.5, 2.0, 0.25])

  def gradient(**changes):
    loss_fn = _loss_fn(toy, **changes)
    return jax.grad(lambda p: loss_fn(p, None, batch, None)[0])(params)

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
    gradient(),
    gradient(ratio=ratio, clip=0.2),
  )


def _generated(toy, params, rows, drawn):
  """What a decoder with a cache would say of drawn tokens."""
  num_samples = drawn.shape[1]
  whole = np.concatenate(
    [np.repeat(rows, num_samples, axis=0), drawn.reshape(-1, drawn.shape[2])],
    axis=1,
  )
  batch = prompts.response_batch(
    whole, np.zeros(len(whole)), prompt_length=rows.shape[1]
  )
  logprobs = np.float32(toy.token_logprobs(params, batch))
  logprobs = logprobs.reshape(drawn.shape)
  return generate.Generated(
    tokens=drawn,
    model_logprobs=logprobs,
    sampling_logprobs=logprobs,
    lengths=np.full(drawn.shape[:2], drawn.shape[2]),
    ended=np.ones(drawn.shape[:2], bool),
  )


def _source(toy, path, **changes):
  """A source whose responses, scores and reference are functions of the step.

  Three prompts of four columns, two samples of three tokens.
  """
  settings = {"updates_per_rollout": 1, **changes}
  updates = settings.pop("updates_per_rollout")
  generated = settings.pop("generated", functools.partial(_generated, toy))

  def sample(params, rows, prompt_ids, seed, step):
    del prompt_ids
    place = int(1000 * float(params["embedding"][0, 0])) % 97
    rng = np.random.default_rng((seed, step, place))
    drawn = rng.integers(special.ASSISTANT_ID + 1, 7, (3, 2, 3))
    drawn[..., -1] = special.EOS_ID
    return generated(params, rows, drawn)

  def score(rows, responses, language_ids):
    del rows, language_ids
    return {"sum": responses.sum(axis=1).astype(np.float32)}

  rows = np.full((3, 4), 5, np.int32)
  rollout = rollout_batches.make_rollout(
    prompts=lambda step: {
      "prompts": rows,
      "prompt_ids": np.arange(3, dtype=np.uint32) + step,
      "language_ids": np.array([0, 2, 1], np.int32),
    },
    sample=sample,
    to_batch=lambda rows, ids: prompts.response_batch(
      rows, ids, prompt_length=4
    ),
    place=lambda batch: batch,
    logprobs=rollout_batches.make_rollout_logprobs(
      toy.apply, toy.apply, backend="reference"
    ),
    reference=toy.params(7),
    score=score,
    reward_of_parts=lambda parts: parts["sum"],
    max_logprob_gap=1e-3,
    seed=3,
    eos_id=special.EOS_ID,
  )
  return rloo.make_batch_source(
    rollout,
    policy_of=lambda params: params,
    estimator=dataclasses.replace(PAPER, **settings),
    updates_per_rollout=updates,
    history=str(path),
  )


def _state(toy, step):
  return types.SimpleNamespace(step=step, params=toy.params(step))


def test_a_batch_holds_what_the_paper_says(toy, tmp_path):
  batch = _source(toy, tmp_path / "rewards")(_state(toy, 0))
  weights = batch["decoder_loss_weights"]
  sampled, reference = (
    toy.token_logprobs(toy.params(seed), batch) for seed in (0, 7)
  )
  np.testing.assert_allclose(batch["sampled_logprobs"], sampled, atol=1e-5)
  np.testing.assert_allclose(batch["reference_logprobs"], reference, atol=1e-5)
  entropy = (toy.entropy(toy.params(0), batch) * weights).sum(axis=1)
  np.testing.assert_allclose(batch["entropy"], entropy, rtol=1e-5)
  kl = (sampled - reference).sum(axis=1)
  np.testing.assert_allclose(batch["kl"], kl, atol=1e-5)
  shaped = (batch["reward"] - 0.25 * kl).reshape(3, 2)
  expected = np.stack([shaped[:, 0] - shaped[:, 1]] * 2, axis=1) * [1, -1]
  np.testing.assert_allclose(
    batch["advantages"], expected.reshape(-1), atol=1e-4
  )
  np.testing.assert_array_equal(batch["length"], weights.sum(axis=1))
  np.testing.assert_array_equal(batch["language_ids"], [0, 0, 2, 2, 1, 1])


def test_a_moving_average_goes_on_after_a_stop(toy, tmp_path):
  whole = _source(toy, tmp_path / "whole", baseline="moving_average")
  expected = [whole(_state(toy, step)) for step in range(4)]
  path = tmp_path / "stopped"
  first = _source(toy, path, baseline="moving_average")
  for step in range(3):  # the last of them was not saved
    first(_state(toy, step))
  again = _source(toy, path, baseline="moving_average")
  for step in (2, 3):
    np.testing.assert_array_equal(
      again(_state(toy, step))["advantages"], expected[step]["advantages"]
    )
  before = [np.mean(b["reward"] - 0.25 * b["kl"]) for b in expected[:3]]
  shaped = expected[3]["reward"] - 0.25 * expected[3]["kl"]
  np.testing.assert_allclose(
    expected[3]["advantages"], shaped - np.mean(before), atol=1e-5
  )


def test_updates_of_a_rollout_learn_from_one_policy(toy, tmp_path):
  source = _source(
    toy, tmp_path / "rewards", ratio="token", updates_per_rollout=2
  )
  for step in range(4):
    batch = source(_state(toy, step))
    sampled = toy.token_logprobs(toy.params(step // 2 * 2), batch)
    np.testing.assert_allclose(batch["sampled_logprobs"], sampled, atol=1e-5)


def test_resuming_within_a_rollout_is_said(toy, tmp_path, caplog):
  source = _source(
    toy, tmp_path / "rewards", ratio="token", updates_per_rollout=2
  )
  with caplog.at_level(logging.WARNING):
    batch = source(_state(toy, 1))
  assert "within a rollout of 2 updates" in caplog.text
  sampled = toy.token_logprobs(toy.params(1), batch)
  np.testing.assert_allclose(batch["sampled_logprobs"], sampled, atol=1e-5)


def test_decoding_that_disagrees_with_training_stops_the_run(toy, tmp_path):
  def off(params, rows, drawn, *, by):
    found = _generated(toy, params, rows, drawn)
    changed = found.model_logprobs.copy()
    changed[1, 1, 2] += by
    return found._replace(model_logprobs=changed)

  batch = _source(
    toy, tmp_path / "near", generated=functools.partial(off, by=9e-4)
  )(_state(toy, 0))
  expected = np.where(np.arange(6) == 3, 9e-4, 0)
  np.testing.assert_allclose(batch["logprob_gap"], expected, atol=1e-5)
  source = _source(
    toy, tmp_path / "far", generated=functools.partial(off, by=-0.02)
  )
  with pytest.raises(
    FloatingPointError, match="step 0: .* differ by 0.02 .* prompt 1, more"
  ):
    source(_state(toy, 0))
  source = _source(
    toy, tmp_path / "nan", generated=functools.partial(off, by=np.nan)
  )
  with pytest.raises(FloatingPointError):
    source(_state(toy, 0))


def test_padding_is_no_part_of_the_gap():
  sampled = np.array([[-1.0, -2.0, 0.0]], np.float32)
  generated = np.array([[-1.25, -2.0, -9.0]], np.float32)
  np.testing.assert_allclose(
    rollout_batches.logprob_gap(sampled, generated, np.array([2])), [0.25]
  )
