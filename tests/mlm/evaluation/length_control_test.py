"""Length control against scipy's optimum, closed forms and known effects."""

import numpy as np
import pytest
from scipy import optimize

from mlm.evaluation import length_control, win_rate

CODES = ("eng_Latn", "tha_Thai", "rus_Cyrl")


def _drawn(rng, size, *, intercepts, slope):
  """Verdicts drawn from the model itself."""
  column = rng.integers(0, len(intercepts), size)
  scaled = np.tanh(rng.normal(0.6, 1.0, size))
  z = np.asarray(intercepts)[column] + slope * scaled
  wins = (rng.random(size) < 1 / (1 + np.exp(-z))).astype(float)
  return wins, scaled, column


def _optimum(wins, scaled, column, num_columns, weights):
  """The same objective written again and left to scipy."""

  def negative(theta):
    z = theta[column] + theta[-1] * scaled
    told = wins * np.logaddexp(0, -z) + (1 - wins) * np.logaddexp(0, z)
    return weights @ told + length_control.RIDGE / 2 * theta[-1] ** 2

  found = optimize.minimize(
    negative, np.zeros(num_columns + 1), method="BFGS", options={"gtol": 1e-9}
  )
  return found.x


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_scipys(seed):
  rng = np.random.default_rng(seed)
  wins, scaled, column = _drawn(rng, 60, intercepts=[0, 1, -0.5], slope=2.0)
  wins[::7] = 0.5
  weights = rng.integers(0, 4, 60).astype(float)
  intercepts, slope = length_control.fit(wins, scaled, column, 3, weights)
  np.testing.assert_allclose(
    [*intercepts, slope],
    _optimum(wins, scaled, column, 3, weights),
    atol=1e-5,  # what BFGS with numerical gradients gives
  )


def test_a_known_effect_is_found():
  """20,000 verdicts: standard errors of about 0.03."""
  rng = np.random.default_rng(1)
  truth = [0.0, 0.8, -0.4]
  wins, scaled, column = _drawn(rng, 20_000, intercepts=truth, slope=1.5)
  intercepts, slope = length_control.fit(
    wins, scaled, column, 3, np.ones(20_000)
  )
  np.testing.assert_allclose(intercepts, truth, atol=0.1)
  assert slope == pytest.approx(1.5, abs=0.1)
  # Longer answers win more, so the raw rate flatters a policy that writes more.
  raw = wins[column == 0].mean()
  assert raw > 0.58
  assert 1 / (1 + np.exp(-intercepts[0])) == pytest.approx(0.5, abs=0.02)


def test_two_by_two_has_a_closed_form():
  """One language, differences +1 and -1: log-odds are a + b and a - b."""
  wins = np.repeat([1.0, 0.0, 1.0, 0.0], [60, 20, 30, 50])
  scaled = np.repeat([1.0, -1.0], [80, 80])
  intercepts, slope = length_control.fit(
    wins, scaled, np.zeros(160, int), 1, np.ones(160)
  )
  longer, shorter = np.log(60 / 20), np.log(30 / 50)
  # The penalty moves them by its weight over the information: 0.01 / 33.
  assert slope == pytest.approx((longer - shorter) / 2, abs=1e-3)
  assert intercepts[0] == pytest.approx((longer + shorter) / 2, abs=1e-3)


def _summary(wins, scaled, languages, clusters, **changes):
  return length_control.summarize(
    np.asarray(wins, float),
    np.asarray(scaled, float),
    languages=languages,
    clusters=clusters,
    **{
      "seen": None,
      "seed": 0,
      "num_resamples": 100,
      "confidence": 0.95,
      **changes,
    },
  )


def test_equal_lengths_leave_the_raw_rates_and_their_intervals():
  rng = np.random.default_rng(2)
  wins = rng.choice([0, 0.5, 1], 120)
  languages = rng.choice(CODES, 120)
  clusters = rng.integers(0, 50, 120)
  shares = np.stack([wins == 1, wins == 0, wins == 0.5], axis=1).astype(float)
  controlled = _summary(
    wins, np.zeros(120), languages, clusters, seen=CODES[:2]
  )
  raw = win_rate.summarize(
    shares,
    languages=languages,
    clusters=clusters,
    seen=CODES[:2],
    seed=0,
    num_resamples=100,
    confidence=0.95,
  )
  assert controlled["slope"]["value"] == 0
  rows = [(controlled["overall"], raw["overall"])]
  for part in ("by_language", "groups"):
    assert controlled[part].keys() == raw[part].keys()
    rows += [(controlled[part][k], raw[part][k]) for k in raw[part]]
  for one, other in rows:
    for name in ("delta", "low", "high"):
      assert one[name] == pytest.approx(other[name], abs=1e-6)


def test_swapping_the_policies_negates_the_rates():
  rng = np.random.default_rng(3)
  wins, scaled, column = _drawn(rng, 90, intercepts=[0.3, 0, -1], slope=1)
  languages = np.array(CODES)[column]
  one = _summary(wins, scaled, languages, range(90))
  other = _summary(1 - wins, -scaled, languages, range(90))
  for code in CODES:
    row, mirrored = (of["by_language"][code] for of in (one, other))
    assert row["delta"] == pytest.approx(-mirrored["delta"], abs=1e-6)
    assert row["low"] == pytest.approx(-mirrored["high"], abs=1e-6)
  assert one["slope"]["value"] == pytest.approx(other["slope"]["value"])


def test_a_language_that_won_everything_stays_at_a_hundred():
  rng = np.random.default_rng(4)
  wins, scaled, column = _drawn(rng, 60, intercepts=[0, 0, 0], slope=1)
  wins[column == 1] = 1.0
  languages = np.array(CODES)[column]
  rows = _summary(wins, scaled, languages, range(60))["by_language"]
  assert rows["tha_Thai"]["delta"] == rows["tha_Thai"]["low"] == 100
  others = column != 1
  apart, _ = length_control.fit(
    wins[others], scaled[others], column[others], 3, np.ones(others.sum())
  )
  together, _ = length_control.fit(wins, scaled, column, 3, np.ones(60))
  np.testing.assert_allclose(together[[0, 2]], apart[[0, 2]])
  assert np.isnan(apart[1]) and together[1] == np.inf


def test_verdicts_that_length_separates_give_a_finite_slope():
  wins = np.array([1.0] * 10 + [0.0] * 10)
  scaled = np.array([0.5] * 10 + [-0.5] * 10)
  intercepts, slope = length_control.fit(
    wins, scaled, np.zeros(20, int), 1, np.ones(20)
  )
  assert 5 < slope < 100
  assert intercepts[0] == pytest.approx(0, abs=1e-6)


def test_differences_are_scaled_within_a_language():
  scaled = length_control.scaled_differences(
    np.array([30, 10, 3000, 1000, 7]),
    np.array([20, 20, 2000, 2000, 7]),
    ["eng_Latn", "eng_Latn", "tha_Thai", "tha_Thai", "rus_Cyrl"],
  )
  np.testing.assert_allclose(scaled, np.tanh([1, -1, 1, -1, 0]))
