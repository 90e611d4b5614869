"""Derived limits against numpy and the rules worked by hand."""

import numpy as np
import pytest

from beam_pipelines.filters import distribution, limits

ENGLISH = distribution.Distribution.of({1.0: 5, 2.0: 3, 4.0: 2})
ZULU = distribution.Distribution.of({2.0: 1, 6.0: 8, 10.0: 1})


def test_moments_and_quantiles_agree_with_numpy():
  rng = np.random.default_rng(0)
  sample = rng.integers(0, 30, 1000) / 7
  values, counts = np.unique(sample, return_counts=True)
  found = distribution.Distribution.of(dict(zip(values, counts)))
  assert found.mean == pytest.approx(sample.mean())
  assert found.standard_deviation == pytest.approx(sample.std())
  for share in (0, 0.001, 0.1, 0.5, 0.9, 1):
    expected = np.quantile(sample, share, method="inverted_cdf")
    assert found.quantile(share) == expected
  assert found.share_below(2.0) == np.mean(sample < 2.0)


def test_quantile_cuts_the_same_share():
  # 2 of 10 English pages lie above 2, half below it.
  assert limits.derive("quantile", "max", 2.0, ENGLISH, ZULU) == 6.0
  assert limits.derive("quantile", "min", 2.0, ENGLISH, ZULU) == 6.0
  # None lies above 4: nothing is cut. None lies below 1.
  assert limits.derive("quantile", "max", 4.0, ENGLISH, ZULU) == 10.0
  assert limits.derive("quantile", "min", 1.0, ENGLISH, ZULU) == 2.0


def test_mean_std_keeps_the_distance_in_standard_deviations():
  z = (4.0 - 1.9) / np.std([1] * 5 + [2] * 3 + [4] * 2)
  zulu = [2] + [6] * 8 + [10]
  expected = np.mean(zulu) + z * np.std(zulu)
  for side in ("min", "max"):
    found = limits.derive("mean_std", side, 4.0, ENGLISH, ZULU)
    assert found == pytest.approx(expected)


def test_median_ratio_and_ten_tail():
  assert limits.derive("median_ratio", "max", 4.0, ENGLISH, ZULU) == 24.0
  assert limits.derive("ten_tail", "min", 0, ENGLISH, ZULU) == 2.0
  assert limits.derive("ten_tail", "max", 0, ENGLISH, ZULU) == 6.0


def test_english_limits_are_their_own():
  for rule in ("quantile", "mean_std", "median_ratio"):
    found = limits.derive(rule, "max", 2.0, ENGLISH, ENGLISH)
    assert found == pytest.approx(2.0)


def test_what_cannot_be_derived_is_refused():
  same = distribution.Distribution.of({0.0: 3})
  with pytest.raises(ValueError, match="use ten_tail"):
    limits.derive("mean_std", "max", 1.0, same, ZULU)
  with pytest.raises(ValueError, match="median is 0"):
    limits.derive("median_ratio", "max", 1.0, same, ZULU)
  with pytest.raises(ValueError, match="ten_tail"):
    limits.derive("meanstd", "max", 1.0, ENGLISH, ZULU)
  with pytest.raises(ValueError, match="no pages"):
    distribution.Distribution.of({})
