"""Estimators of the policy gradient against closed forms and enumeration."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.alignment import estimators

PAPER = estimators.Estimator(
  baseline="siblings",
  advantage_scale="none",
  kl_in="reward",
  kl_estimator="k1",
  kl_coefficient=0.3,
  ratio="none",
  clip=None,
  average="sequences",
)
# Two tokens over a vocabulary of two, the second depending on the first.
RESPONSES = np.array(list(itertools.product([0, 1], repeat=2)))
REWARDS = np.array([0.0, 1.0, -2.0, 0.7])
THETA = jnp.array([[0.3, -0.4], [1.1, 0.2], [-0.7, 0.5]])
REFERENCE = jnp.array([[0.1, 0.1], [-0.3, 0.4], [0.2, -0.6]])
ONES = np.ones((4, 2), np.float32)


def test_the_published_estimator_is_what_the_paper_says():
  assert estimators.paper(kl_coefficient=0.3) == PAPER


def _with(**changes):
  return dataclasses.replace(PAPER, **changes)


def _logprobs(theta):
  """Of each token of each response, [4, 2]."""
  of_first = jax.nn.log_softmax(theta[0])[RESPONSES[:, 0]]
  of_second = jax.nn.log_softmax(theta[1:], axis=1)
  return jnp.stack([of_first, of_second[RESPONSES[:, 0], RESPONSES[:, 1]]], 1)


def _probabilities(theta):
  return jnp.exp(_logprobs(theta).sum(axis=1))


def _exact_kl(theta, reference):
  p, q = _probabilities(theta), _probabilities(reference)
  return jnp.sum(p * (jnp.log(p) - jnp.log(q)))


def _surrogate(estimator, logprobs, *, rows=slice(None), advantages, **given):
  sampled = given.get("sampled", jax.lax.stop_gradient(logprobs))
  return estimators.surrogate(
    estimator,
    logprobs,
    sampled=sampled,
    reference=_logprobs(REFERENCE)[rows],
    advantages=jnp.float32(advantages),
    weights=given.get("weights", jnp.ones_like(logprobs)),
  )


def test_two_samples_give_plus_minus_the_difference():
  advantages = estimators.leave_one_out_advantages(np.array([[3.0, 1.0]]))
  np.testing.assert_allclose(advantages, [[2.0, -2.0]])


def test_hand_worked_example_of_four_samples():
  # 4 - (1+2+5)/3 = 4/3;  1 - (4+2+5)/3 = -8/3;  2 - 10/3;  5 - 7/3.
  rewards = np.array([[4.0, 1.0, 2.0, 5.0]])
  advantages = estimators.leave_one_out_advantages(rewards)
  np.testing.assert_allclose(advantages, [[4 / 3, -8 / 3, -4 / 3, 8 / 3]])


def test_advantages_of_a_prompt_sum_to_zero_and_ignore_its_level():
  rng = np.random.default_rng(0)
  rewards = rng.normal(size=(7, 5))
  advantages = estimators.leave_one_out_advantages(rewards)
  np.testing.assert_allclose(advantages.sum(axis=1), 0, atol=1e-12)
  shifted = rewards + rng.normal(size=(7, 1))
  shifted = estimators.leave_one_out_advantages(shifted)
  np.testing.assert_allclose(shifted, advantages, atol=1e-12)
  k = rewards.shape[1]
  centered = rewards - rewards.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(advantages, k / (k - 1) * centered, atol=1e-12)


def test_one_sample_is_refused():
  with pytest.raises(ValueError, match="at least 2 samples"):
    estimators.leave_one_out_advantages(np.zeros((3, 1)))


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"baseline": "critic"}, "none of siblings"),
    ({"kl_estimator": "k4"}, "none of k1"),
    ({"kl_coefficient": -0.1}, "below 0"),
    ({"clip": 0.2}, "a ratio to clip"),
    ({"ratio": "token", "clip": 0.0}, "above 0"),
    ({"ratio": "sequence", "average": "tokens"}, "over tokens"),
    ({"ratio": "sequence", "kl_in": "token_reward"}, "cannot weigh"),
  ],
)
def test_settings_without_meaning_are_refused(changes, told):
  with pytest.raises(ValueError, match=told):
    _with(**changes)


def test_the_kl_estimators_have_the_expectations_they_are_said_to_have():
  """Sums over all responses: k1 and k3 give their KL, k2 does not."""
  rho = (_logprobs(THETA) - _logprobs(REFERENCE)).sum(axis=1)
  exact = float(_exact_kl(THETA, REFERENCE))
  mean = {
    name: float(jnp.sum(_probabilities(THETA) * of(rho)))
    for name, of in estimators.KL_ESTIMATORS.items()
  }
  assert mean["k1"] == pytest.approx(exact, rel=1e-5)
  assert mean["k3"] == pytest.approx(exact, rel=1e-5)
  assert mean["k2"] != pytest.approx(exact, rel=0.005)
  assert (np.asarray(estimators.KL_ESTIMATORS["k3"](rho)) >= 0).all()
  assert float(rho.min()) < 0


@pytest.mark.parametrize("name", estimators.KL_ESTIMATORS)
def test_the_mean_over_tokens_is_the_kl_of_each_tokens_distribution(name):
  """By token k1 and k3 still add up to the KL of responses (chain rule)."""
  kl = estimators.token_kl(
    _with(kl_estimator=name), _logprobs(THETA), _logprobs(REFERENCE), ONES
  )
  mean = float(jnp.sum(_probabilities(THETA)[:, None] * kl))
  exact = float(_exact_kl(THETA, REFERENCE))
  assert (mean == pytest.approx(exact, rel=1e-5)) == (name != "k2")


@pytest.mark.parametrize("name", estimators.KL_ESTIMATORS)
def test_which_gradient_an_estimator_has_in_the_loss(name):
  """k1 none, k2 that of KL(pi, ref), k3 that of KL(ref, pi): exact sums."""

  def loss_of(theta):
    """Mean under the frozen policy of the estimator that is differentiated."""
    rho = (_logprobs(theta) - _logprobs(REFERENCE)).sum(axis=1)
    frozen = jax.lax.stop_gradient(_probabilities(theta))
    return jnp.sum(frozen * estimators.KL_ESTIMATORS[name](rho))

  exact = {
    "k1": jnp.zeros_like(THETA),
    "k2": jax.grad(_exact_kl)(THETA, REFERENCE),
    "k3": jax.grad(lambda t: _exact_kl(REFERENCE, t))(THETA),
  }[name]
  np.testing.assert_allclose(jax.grad(loss_of)(THETA), exact, atol=1e-6)


def _expected_gradient(estimator, num_samples):
  """Mean gradient over every tuple of responses, weighted by its chance."""
  logprobs, probabilities = _logprobs(THETA), _probabilities(THETA)
  kl = np.asarray(
    estimators.token_kl(estimator, logprobs, _logprobs(REFERENCE), ONES)
  ).sum(axis=1)
  drawn = np.array(list(itertools.product(range(4), repeat=num_samples)))
  advantages = np.concatenate(
    [
      estimators.advantages(
        estimator, REWARDS[row][None], kl[row][None], earlier=np.array([0.4])
      )[0]
      for row in drawn
    ]
  )

  def loss(theta, rows, of_rows):
    logprobs = _logprobs(theta)[rows]
    return _surrogate(estimator, logprobs, rows=rows, advantages=of_rows)[0]

  gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(
    THETA, drawn, jnp.float32(advantages)
  )
  chance = jnp.prod(probabilities[drawn], axis=1)
  return -jnp.einsum("n,nij->ij", chance, gradients)


def _exact_gradient(beta):
  return jax.grad(
    lambda t: (
      jnp.sum(_probabilities(t) * REWARDS) - beta * _exact_kl(t, REFERENCE)
    )
  )(THETA)


@pytest.mark.parametrize("num_samples", [2, 3])
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"baseline": "none"},
    {"baseline": "moving_average"},
    {"kl_in": "token_reward"},
    {"kl_in": "loss", "kl_estimator": "k2", "kl_coefficient": 0.0},
    {"ratio": "sequence", "clip": 0.2},
    {"ratio": "token", "clip": 0.2},
    {"ratio": "token", "kl_in": "token_reward"},
  ],
)
def test_the_expected_gradient_is_exact(changes, num_samples):
  """That of the reward minus beta times the KL of responses, not of tokens.

  True of every choice that sums over the response; at the first update ratios
  are 1 and clip nothing.
  """
  estimator = _with(**changes)
  np.testing.assert_allclose(
    _expected_gradient(estimator, num_samples),
    _exact_gradient(estimator.kl_coefficient),
    atol=2e-6,
  )


@pytest.mark.parametrize(
  "changes, is_exact",
  [
    ({"kl_in": "loss", "kl_estimator": "k1"}, False),
    ({"average": "tokens"}, False),
    ({"average": "token_means"}, False),
  ],
)
def test_which_choices_follow_another_gradient(changes, is_exact):
  """KL in the loss by k1 holds nothing back; means over tokens halve here."""
  estimator = _with(**changes)
  found = _expected_gradient(estimator, 2)
  close = np.allclose(found, _exact_gradient(0.3), atol=1e-3)
  assert close == is_exact
  if "kl_in" in changes:
    np.testing.assert_allclose(found, _exact_gradient(0.0), atol=2e-6)
  else:
    np.testing.assert_allclose(2 * found, _exact_gradient(0.3), atol=2e-6)


def test_kl_in_the_loss_by_k2_is_exact_for_tokens_given_their_prefixes():
  """Of one token it is the KL; of two, what the first does is left out."""
  estimator = _with(kl_in="loss", kl_estimator="k2")
  frozen = _probabilities(THETA)

  def loss(theta, num_tokens):
    weights = jnp.ones((1, 2)).at[:, num_tokens:].set(0)
    values = [
      _surrogate(
        estimator,
        _logprobs(theta)[row : row + 1],
        rows=slice(row, row + 1),
        advantages=[0.0],
        weights=weights,
      )[0]
      for row in range(4)
    ]
    return frozen @ jnp.stack(values)

  def kl_of(theta, row):
    p, q = (jax.nn.log_softmax(x[row]) for x in (theta, REFERENCE))
    return 0.3 * jnp.sum(jnp.exp(p) * (p - q))

  def kl_given_prefixes(theta):
    of_second = jnp.stack([kl_of(theta, 1), kl_of(theta, 2)])
    prefixes = jax.nn.softmax(THETA[0])
    return kl_of(theta, 0) + prefixes @ of_second

  of_one = jax.grad(loss)(THETA, 1)
  exact = jax.grad(kl_of)(THETA, 0)
  np.testing.assert_allclose(of_one, exact, atol=1e-6)
  of_two = jax.grad(loss)(THETA, 2)
  exact = jax.grad(kl_given_prefixes)(THETA)
  np.testing.assert_allclose(of_two, exact, atol=1e-6)
  whole = 0.3 * jax.grad(_exact_kl)(THETA, REFERENCE)
  assert np.abs(of_two - whole).max() > 1e-3


def test_a_moving_average_is_over_all_earlier_rewards():
  estimator = _with(baseline="moving_average", kl_coefficient=0.5)
  rewards, kl = np.array([[3.0, 1.0]]), np.array([[2.0, 0.0]])
  first, shaped = estimators.advantages(
    estimator, rewards, kl, earlier=np.zeros(0)
  )
  np.testing.assert_allclose(shaped, [[2.0, 1.0]])
  np.testing.assert_allclose(first, shaped)
  later, _ = estimators.advantages(
    estimator, rewards, kl, earlier=np.array([1.0, 3.0])
  )
  np.testing.assert_allclose(later, [[0.0, -1.0]])


def test_scaled_advantages_have_no_mean_and_deviation_one():
  rng = np.random.default_rng(3)
  found, _ = estimators.advantages(
    _with(advantage_scale="batch"),
    rng.normal(3, 7, size=(5, 4)),
    np.zeros((5, 4)),
    earlier=np.zeros(0),
  )
  assert found.mean() == pytest.approx(0, abs=1e-12)
  assert found.std(ddof=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_a_clip_takes_the_gradient_of_what_moved_far_already(ratio):
  """Rows: raised and good; raised and bad; lowered and good; lowered and bad."""
  estimator = _with(ratio=ratio, clip=0.2)
  moved = jnp.log(jnp.array([1.5, 1.5, 0.5, 0.5]))[:, None]
  logprobs = jnp.concatenate([moved, jnp.zeros_like(moved)], axis=1) - 1.0
  advantages = jnp.array([2.0, -2.0, 2.0, -2.0])

  def loss(logprobs):
    return _surrogate(
      estimator, logprobs, advantages=advantages, sampled=-jnp.ones((4, 2))
    )

  (value, clipped, counted), gradient = (
    loss(logprobs),
    jax.grad(lambda x: loss(x)[0])(logprobs),
  )
  expected = -np.array([[2.4, 2], [-3, -2], [1, 2], [-1.6, -2]])
  if ratio == "sequence":
    expected = expected[:, :1]
  assert float(value) == pytest.approx(expected.sum() / 4)
  np.testing.assert_array_equal(clipped[:, 0], [1, 0, 0, 1])
  assert counted.shape == expected.shape
  np.testing.assert_array_equal(gradient[:, 0] == 0, [True, False, False, True])


def test_long_responses_weigh_as_the_average_says():
  weights = jnp.array([[1.0, 1.0], [1.0, 0.0]])
  logprobs = jnp.array([[-1.0, -2.0], [-4.0, -100.0]])
  advantages = jnp.array([1.0, 0.5])
  expected = {
    "sequences": (3 + 2) / 2,
    "tokens": (3 + 2) / 3,
    "token_means": (1.5 + 2) / 2,
  }
  for average, value in expected.items():
    found, _, _ = _surrogate(
      _with(average=average),
      logprobs,
      rows=slice(0, 2),
      advantages=advantages,
      weights=weights,
    )
    assert float(found) == pytest.approx(value)
