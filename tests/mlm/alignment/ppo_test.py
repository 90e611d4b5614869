"""PPO's advantages by definition, its loss by hand, its batches by step."""

import dataclasses
import logging
import types

import jax
import numpy as np
import pytest

from mlm.alignment import ppo

SETTINGS = ppo.Settings(
  kl_coefficient=0.5,
  discount=0.9,
  gae_lambda=0.8,
  whiten=False,
  clip=0.2,
  value_clip=0.3,
  value_coefficient=0.1,
  num_epochs=2,
  num_minibatches=2,
)


def _weights(lengths, total=6, start=2):
  weights = np.zeros((len(lengths), total))
  for row, length in zip(weights, lengths):
    row[start : start + length] = 1
  return weights


def test_reward_of_a_response_is_at_its_last_token():
  weights = _weights([3, 1])
  kl = np.arange(12.0).reshape(2, 6)
  found = ppo.token_rewards(
    np.array([10.0, 20.0]), kl, weights, kl_coefficient=0.5
  )
  np.testing.assert_allclose(
    found, [[0, 0, -1, -1.5, 8, 0], [0, 0, 16, 0, 0, 0]]
  )


@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_advantages_are_the_weighted_sum_of_later_surprises(gae_lambda):
  """Equation 16 of the GAE paper, term by term."""
  rng = np.random.default_rng(0)
  lengths, discount = [4, 1, 2], 0.9
  weights = _weights(lengths)
  rewards = rng.normal(size=weights.shape) * weights
  values = rng.normal(size=weights.shape)
  found, returns = ppo.generalized_advantages(
    rewards, values, weights, discount=discount, gae_lambda=gae_lambda
  )
  for row, length in enumerate(lengths):
    r, v = rewards[row, 2 : 2 + length], values[row, 2 : 2 + length]
    delta = r + discount * np.append(v[1:], 0) - v
    expected = [
      sum((discount * gae_lambda) ** n * d for n, d in enumerate(delta[t:]))
      for t in range(length)
    ]
    np.testing.assert_allclose(found[row, 2 : 2 + length], expected)
    if gae_lambda == 1:  # the discounted return minus the value
      first = sum(discount**n * x for n, x in enumerate(r))
      assert found[row, 2] == pytest.approx(first - v[0])
  np.testing.assert_allclose(returns, (found + values) * weights)
  assert not (found * (1 - weights)).any()


def test_whitening_is_over_response_tokens_only():
  weights = _weights([3, 2])
  values = np.random.default_rng(1).normal(3, 5, weights.shape)
  found = ppo.whitened(values, weights)
  kept = found[weights > 0]
  assert kept.mean() == pytest.approx(0, abs=1e-12)
  assert kept.std() == pytest.approx(1, rel=1e-6)
  assert not found[weights == 0].any()


def _params(toy, seed):
  rng = np.random.default_rng(seed)
  score = rng.normal(size=4).astype(np.float32)
  value = {"decoder": toy.params(seed + 10), "score": score}
  return {"policy": toy.params(seed), "value": value}


def _batch(toy, params, seed=1):
  """Rows whose old log-probabilities and values are off by up to a half."""
  rng = np.random.default_rng(seed)
  batch = toy.batch(4, seed=seed)
  weights = batch["decoder_loss_weights"]

  def noise():
    return rng.uniform(-0.5, 0.5, weights.shape) * weights

  values = np.asarray(
    ppo.token_values(toy.apply, params["value"], batch), np.float64
  )
  tokens = {
    "sampled_logprobs": toy.token_logprobs(params["policy"], batch) + noise(),
    "advantages": 3 * noise(),
    "returns": values * weights + noise(),
    "values": values * weights + noise(),
  }
  rows = ("reward", "kl", "entropy", "ended", "logprob_gap", "is_equal_group")
  return {
    **batch,
    **{name: np.float32(of) for name, of in tokens.items()},
    **{name: np.ones(4, np.float32) for name in rows},
    "length": weights.sum(axis=1),
    "language_ids": np.array([0, 1, 2, 1]),
  }


def test_loss_is_the_clipped_one_written_out(toy):
  params = _params(toy, 0)
  batch = _batch(toy, params)
  loss, metrics = ppo.ppo_loss(
    toy.apply,
    toy.apply,
    settings=SETTINGS,
    backend="reference",
    num_languages=3,
  )(params, None, batch, None)
  logprobs = toy.token_logprobs(params["policy"], batch)
  values = np.asarray(ppo.token_values(toy.apply, params["value"], batch))
  policy, value, clipped = [], [], 0
  for place in zip(*np.nonzero(batch["decoder_loss_weights"])):
    a = batch["advantages"][place]
    ratio = np.exp(logprobs[place] - batch["sampled_logprobs"][place])
    near = min(max(ratio, 0.8), 1.2)
    policy.append(-min(ratio * a, near * a))
    clipped += near * a < ratio * a
    v, old, goal = (
      x[place] for x in (values, batch["values"], batch["returns"])
    )
    close = min(max(v, old - 0.3), old + 0.3)
    value.append(0.5 * max((v - goal) ** 2, (close - goal) ** 2))
  assert clipped > 0
  expected = np.mean(policy) + 0.1 * np.mean(value)
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert float(metrics["clipped"][0]) == clipped
  assert float(metrics["value_loss"][0]) == pytest.approx(
    np.mean(value), rel=1e-5
  )


def test_first_update_is_the_policy_gradient_of_the_advantages(toy):
  params = _params(toy, 0)
  batch = _batch(toy, params)
  batch["sampled_logprobs"] = np.float32(
    toy.token_logprobs(params["policy"], batch)
  )
  loss_fn = ppo.ppo_loss(
    toy.apply,
    toy.apply,
    settings=SETTINGS,
    backend="reference",
    num_languages=3,
  )
  weights = batch["decoder_loss_weights"]

  def plain(policy):
    outputs = toy.apply(policy, batch)
    logits = outputs["hidden"] @ outputs["unembedding"]
    logprobs = jax.nn.log_softmax(logits)[:, -weights.shape[1] :]
    of_targets = np.eye(7)[batch["decoder_target_tokens"]] * logprobs
    gain = of_targets.sum(-1) * batch["advantages"] * weights
    return -gain.sum() / weights.sum()

  found = jax.grad(lambda p: loss_fn(p, None, batch, None)[0])(params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
    found["policy"],
    jax.grad(plain)(params["policy"]),
  )


def _source(toy, log, **changes):
  settings = dataclasses.replace(SETTINGS, **changes)

  def rollout(policy, number):
    log.append(number)
    batch = _batch(toy, {"policy": policy, "value": _params(toy, 0)["value"]})
    for name in ("advantages", "returns", "values"):
      del batch[name]
    batch["reference_logprobs"] = batch["sampled_logprobs"] - 0.1
    batch["reward"] = np.arange(4, dtype=np.float32) + number
    return batch, (2, 2)

  return ppo.make_batch_source(
    rollout,
    value_apply=toy.apply,
    place=lambda batch: batch,
    settings=settings,
    seed=3,
  )


def _state(toy, step):
  return types.SimpleNamespace(step=step, params=_params(toy, step))


def test_every_epoch_learns_from_every_response_of_one_rollout(toy):
  log = []
  source = _source(toy, log)
  rewards = [source(_state(toy, step))["reward"] for step in range(8)]
  assert log == [0, 1]
  for number in (0, 1):
    for epoch in (0, 1):
      start = 4 * number + 2 * epoch
      both = np.concatenate(rewards[start : start + 2])
      np.testing.assert_array_equal(np.sort(both), np.arange(4) + number)
  orders = [np.concatenate(rewards[i : i + 2]).tolist() for i in (0, 2, 4, 6)]
  assert len({tuple(np.array(o) - o[0]) for o in orders}) > 1


def test_resuming_between_rollouts_gives_the_same_batches(toy, caplog):
  whole = _source(toy, [])
  expected = [whole(_state(toy, step)) for step in range(8)][4:]
  log = []
  resumed = _source(toy, log)
  found = [resumed(_state(toy, step)) for step in range(4, 8)]
  assert log == [1] and not caplog.records
  for one, other in zip(found, expected):
    jax.tree.map(np.testing.assert_array_equal, one, other)
  within = _source(toy, [])
  with caplog.at_level(logging.WARNING):
    within(_state(toy, 5))
  assert "resuming at update 1 of a rollout of 4" in caplog.text


def test_settings_out_of_range_and_minibatches_that_do_not_divide(toy):
  for change in ({"clip": 0}, {"discount": 0}, {"num_epochs": 0}):
    with pytest.raises(ValueError, match="must"):
      dataclasses.replace(SETTINGS, **change)
  with pytest.raises(ValueError, match="4 responses are not divisible"):
    _source(toy, [], num_minibatches=3)(_state(toy, 0))
