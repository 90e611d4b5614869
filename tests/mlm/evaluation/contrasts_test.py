"""Contrasts over seeds: closed forms, coverage, Holm's example."""

import math

import numpy as np
import pytest

from mlm.evaluation import contrasts


def test_resampled_spread_is_the_closed_form():
  rng = np.random.default_rng(0)
  values = rng.normal(rng.normal(0, 3, (4, 1)), 2.0, (4, 50))
  # Variance of a bootstrap mean: of one draw of n, the biased variance / n.
  within = values.var(axis=1) / 50
  between = values.mean(axis=1).var()
  for over_seeds, expected in (
    (False, within.mean() / 4),
    (True, (between + within.mean()) / 4),
  ):
    found = contrasts.resampled_means(
      values, over_seeds=over_seeds, num_resamples=20_000, rng=rng
    )
    assert found.mean() == pytest.approx(values.mean(), abs=0.05)
    # The standard deviation of 20,000 draws has a relative error of 0.5 %.
    assert found.std() == pytest.approx(math.sqrt(expected), rel=0.02)


def _contrast(values, **changes):
  settings = {"confidence": 0.95, "num_resamples": 2000, "seed": 0}
  return contrasts.contrast(values, **{**settings, **changes})


def test_students_interval_by_hand():
  # Means 1, 2, 3: mean 2, standard error 1/sqrt(3), t(2) at 97.5 % 4.302653.
  values = np.repeat([[1.0], [2.0], [3.0]], 6, axis=1)
  found = _contrast(values)
  assert found["difference"] == pytest.approx(2)
  assert found["low_t"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
  assert found["high_t"] == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
  assert found["by_seed"] == [1.0, 2.0, 3.0]
  assert found["low_prompts"] == found["high_prompts"] == pytest.approx(2)
  assert found["low"] < 2 < found["high"]


def test_p_is_small_for_an_effect_and_not_for_none():
  rng = np.random.default_rng(0)
  noise = rng.normal(0, 1, (5, 100))
  assert _contrast(noise + 2)["p"] == pytest.approx(2 / 2001)
  centred = noise - noise.mean()
  assert _contrast(centred)["p"] > 0.5
  assert _contrast(-noise - 2)["p"] == pytest.approx(2 / 2001)


def test_seeds_that_disagree_widen_the_interval():
  rng = np.random.default_rng(1)
  noise = rng.normal(0, 1, (5, 200))
  agreeing, disagreeing = (
    _contrast(noise + np.array([[-s], [0], [s], [s], [-s]])) for s in (0, 3)
  )
  width = [x["high"] - x["low"] for x in (agreeing, disagreeing)]
  assert width[1] > 5 * width[0]
  assert disagreeing["high_prompts"] - disagreeing[
    "low_prompts"
  ] == pytest.approx(
    agreeing["high_prompts"] - agreeing["low_prompts"], rel=0.1
  )


def test_one_seed_has_no_t_interval():
  found = _contrast(np.ones((1, 5)))
  assert math.isnan(found["p_t"]) and found["difference"] == 1


def test_holm_by_hand():
  # Sorted: 0.005 0.01 0.03 0.04.
  found = contrasts.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
  # 4 * .005 = .02, 3 * .01 = .03, 2 * .03 = .06, max(.06, 1 * .04) = .06
  assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
  assert list(found) == ["a", "b", "c", "d"]
  assert contrasts.holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_holm_rejects_what_bonferroni_does_and_controls_the_family():
  rng = np.random.default_rng(0)
  false_alarms = 0
  for _ in range(2000):
    p = dict(enumerate(rng.random(6)))
    adjusted = contrasts.holm(p)
    assert all(adjusted[i] <= min(1, 6 * p[i]) + 1e-12 for i in p)
    false_alarms += min(adjusted.values()) < 0.05
  # 5 % of 2,000 is 100, with a standard deviation of 10.
  assert false_alarms < 135
