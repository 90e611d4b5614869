"""Best-of-n against every subset, and its KL against exact enumeration."""

import itertools

import numpy as np
import pytest

from mlm.alignment import best_of_n


def _over_subsets(proxy, gold, n):
  """Mean over all subsets of the gold of the best, ties shared equally."""
  values = []
  for subset in itertools.combinations(range(len(proxy)), n):
    best = max(proxy[i] for i in subset)
    values.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
  return np.mean(values)


@pytest.mark.parametrize("tied", [False, True])
def test_expected_rewards_are_means_over_all_subsets(tied):
  rng = np.random.default_rng(0)
  proxy, gold = rng.normal(size=(2, 3, 7))
  if tied:
    proxy = np.round(proxy)
    assert any(len(set(row)) < 7 for row in proxy)
  found = best_of_n.expected(proxy, gold)
  for row, (p, g) in enumerate(zip(proxy, gold)):
    for n in range(1, 8):
      assert found[row, n - 1] == pytest.approx(_over_subsets(p, g, n))


def test_one_sample_is_the_mean_and_all_samples_are_the_best():
  proxy = np.random.default_rng(1).normal(size=(4, 9))
  found = best_of_n.expected(proxy, proxy)
  np.testing.assert_allclose(found[:, 0], proxy.mean(axis=1))
  np.testing.assert_allclose(found[:, -1], proxy.max(axis=1))
  assert (np.diff(found, axis=1) > 0).all()


def test_weights_are_probabilities_for_many_samples():
  weights = best_of_n.weights(128)
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
  assert (weights >= 0).all()


def test_the_estimate_is_unbiased():
  """Enumerates all draws of 4 samples from three responses."""
  probabilities, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.0, 2.0, 1.0])
  draws = np.array(list(itertools.product(range(3), repeat=4)))
  chance = probabilities[draws].prod(axis=1)
  estimates = best_of_n.expected(rewards[draws], rewards[draws])
  # P(all n are at most r) by hand: r = 0, 1, 2 in ascending order.
  below = np.array([0.5, 0.7, 1.0])
  for n in range(1, 5):
    exact = np.diff(below**n, prepend=0) @ [0.0, 1.0, 2.0]
    assert chance @ estimates[:, n - 1] == pytest.approx(exact)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_the_kl_is_at_most_its_bound(n):
  """Exact for a few responses, and close to the bound for very many."""
  for num_responses in (3, 10_000):
    below = np.arange(num_responses + 1) / num_responses
    chosen = np.diff(below**n)
    kl = np.sum(chosen * np.log(np.maximum(chosen, 1e-300) * num_responses))
    assert kl <= best_of_n.kl_bound(n) + 1e-9
  assert kl == pytest.approx(best_of_n.kl_bound(n), rel=0.01)


def test_the_bound_at_64_samples():
  assert best_of_n.kl_bound(64) == pytest.approx(3.17, abs=0.005)


def test_languages_count_the_same_whatever_their_prompts():
  rng = np.random.default_rng(2)
  pairs = {
    "hin_Deva": rng.normal(size=(2, 3, 4)),
    "tha_Thai": 5 + rng.normal(size=(2, 30, 4)),
  }
  found = best_of_n.curve({code: tuple(x) for code, x in pairs.items()})
  rows = found["by_language"]
  assert [row["n"] for row in found["macro"]] == [1, 2, 3, 4]
  for n, row in enumerate(found["macro"]):
    means = [rows[code][n]["gold"] for code in pairs]
    assert row["gold"] == pytest.approx(np.mean(means))
    assert row["prompts"] == 33
  assert rows["tha_Thai"][0]["proxy_error"] == pytest.approx(
    pairs["tha_Thai"][0].mean(axis=1).std(ddof=1) / 30**0.5
  )


def test_another_number_of_samples_in_a_language_is_refused():
  of = {
    "hin_Deva": (np.ones((3, 4)),) * 2,
    "tha_Thai": (np.ones((3, 5)),) * 2,
  }
  with pytest.raises(ValueError, match="tha_Thai.*same number"):
    best_of_n.curve(of)


def test_a_single_prompt_has_no_standard_error():
  of = {
    "hin_Deva": (np.ones((1, 3)),) * 2,
    "tha_Thai": (np.ones((4, 3)),) * 2,
  }
  found = best_of_n.curve(of)
  assert found["by_language"]["hin_Deva"][0]["gold_error"] is None
  assert found["by_language"]["tha_Thai"][0]["gold_error"] == 0
  assert found["macro"][0]["gold_error"] is None
