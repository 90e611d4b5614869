"""RLOO's estimator against closed forms and exact enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.alignment import rloo


def test_two_samples_give_plus_minus_the_difference():
  advantages = rloo.leave_one_out_advantages(np.array([[3.0, 1.0]]))
  np.testing.assert_allclose(advantages, [[2.0, -2.0]])


def test_hand_worked_example_of_four_samples():
  # 4 - (1+2+5)/3 = 4/3;  1 - (4+2+5)/3 = -8/3;  2 - 10/3;  5 - 7/3.
  advantages = rloo.leave_one_out_advantages(np.array([[4.0, 1.0, 2.0, 5.0]]))
  np.testing.assert_allclose(advantages, [[4 / 3, -8 / 3, -4 / 3, 8 / 3]])


def test_advantages_of_a_prompt_sum_to_zero_and_ignore_its_level():
  rng = np.random.default_rng(0)
  rewards = rng.normal(size=(7, 5))
  advantages = rloo.leave_one_out_advantages(rewards)
  np.testing.assert_allclose(advantages.sum(axis=1), 0, atol=1e-12)
  shifted = rloo.leave_one_out_advantages(rewards + rng.normal(size=(7, 1)))
  np.testing.assert_allclose(shifted, advantages, atol=1e-12)
  k = rewards.shape[1]
  centered = rewards - rewards.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(advantages, k / (k - 1) * centered, atol=1e-12)


def test_one_sample_is_refused():
  with pytest.raises(ValueError, match="at least 2 samples"):
    rloo.leave_one_out_advantages(np.zeros((3, 1)))


def _sequence_logprob(theta, sequence):
  """Log-probability of two tokens; the second depends on the first."""
  first = jax.nn.log_softmax(theta[0])[sequence[0]]
  second = jax.nn.log_softmax(theta[1 + sequence[0]])[sequence[1]]
  return first + second


@pytest.mark.parametrize("num_samples", [2, 3])
def test_expected_gradient_is_the_exact_policy_gradient(num_samples):
  """Enumerates every tuple of responses over a vocabulary of two tokens."""
  theta = jnp.array([[0.3, -0.4], [1.1, 0.2], [-0.7, 0.5]])
  responses = list(itertools.product([0, 1], repeat=2))
  reward = jnp.array([0.0, 1.0, -2.0, 0.7])
  beta = 0.3
  reference = jnp.zeros_like(theta)

  def logprobs(t):
    return jnp.stack([_sequence_logprob(t, y) for y in responses])

  shaped = reward - beta * (logprobs(theta) - logprobs(reference))

  def objective(t):
    return jnp.sum(jnp.exp(logprobs(t)) * jax.lax.stop_gradient(shaped))

  exact = jax.grad(objective)(theta)
  jacobian = jax.jacobian(logprobs)(theta)
  probabilities = jnp.exp(logprobs(theta))
  expected = jnp.zeros_like(theta)
  for drawn in itertools.product(range(4), repeat=num_samples):
    drawn = jnp.array(drawn)
    advantages = rloo.leave_one_out_advantages(shaped[drawn][None])[0]
    estimate = jnp.einsum("k,kij->ij", advantages, jacobian[drawn])
    weight = jnp.prod(probabilities[drawn])
    expected += weight * estimate / num_samples
  np.testing.assert_allclose(expected, exact, atol=1e-6)


def _toy_apply(params, batch):
  return {
    "hidden": params["embedding"][batch["decoder_input_tokens"]],
    "unembedding": params["unembedding"],
  }


def _toy_batch(advantages):
  rng = np.random.default_rng(1)
  rows = len(advantages)
  weights = np.zeros((rows, 5), np.float32)
  weights[:, 2:4] = 1
  scalars = {
    name: np.ones(rows, np.float32)
    for name in ["reward", "kl", "length", "ended", "is_equal_group"]
  }
  return {
    "decoder_input_tokens": rng.integers(0, 7, (rows, 5)),
    "decoder_target_tokens": rng.integers(0, 7, (rows, 5)),
    "decoder_loss_weights": weights,
    "advantages": np.asarray(advantages, np.float32),
    "language_ids": np.arange(rows) % 3,
    **scalars,
  }


def _toy_params():
  rng = np.random.default_rng(2)
  return {
    "embedding": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
    "unembedding": jnp.asarray(rng.normal(size=(4, 7)), jnp.float32),
  }


def test_loss_sums_over_the_response_and_averages_over_rows():
  params, advantages = _toy_params(), [1.0, -0.5, 2.0, 0.25]
  batch = _toy_batch(advantages)
  loss_fn = rloo.rloo_loss(_toy_apply, backend="reference", num_languages=3)
  loss, metrics = loss_fn(params, None, batch, None)
  hidden = np.asarray(params["embedding"])[batch["decoder_input_tokens"]]
  logits = hidden @ np.asarray(params["unembedding"])
  logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  of_targets = np.take_along_axis(
    logprobs, batch["decoder_target_tokens"][..., None], -1
  )[..., 0]
  by_row = (of_targets * batch["decoder_loss_weights"]).sum(1)
  np.testing.assert_allclose(
    loss, -np.mean(np.array(advantages) * by_row), rtol=1e-5
  )
  numerator, denominator = metrics["reward_by_language"]
  np.testing.assert_allclose(denominator, [2, 1, 1])
  np.testing.assert_allclose(numerator, [2, 1, 1])


def test_equal_rewards_give_zero_gradient():
  advantages = rloo.leave_one_out_advantages(np.full((2, 2), 0.7)).reshape(-1)
  loss_fn = rloo.rloo_loss(_toy_apply, backend="reference", num_languages=3)
  gradient = jax.grad(
    lambda p: loss_fn(p, None, _toy_batch(advantages), None)[0]
  )
  for leaf in jax.tree.leaves(gradient(_toy_params())):
    np.testing.assert_allclose(leaf, 0, atol=1e-7)
