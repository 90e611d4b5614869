"""Win rates against hand-worked examples and closed forms."""

import numpy as np
import pytest

from mlm.evaluation import win_rate


def test_outcomes_compare_every_pair_of_samples():
  shares = win_rate.outcomes(
    np.array([[1.0, 0.0]]), np.array([[0.5, 0.0]]), margin=0.0
  )
  # 1>.5, 1>0, 0<.5, 0=0.
  np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25]])


def test_margin_makes_ties():
  shares = win_rate.outcomes(np.array([[1.0]]), np.array([[0.95]]), margin=0.1)
  np.testing.assert_allclose(shares, [[0, 0, 1]])


def _summary(by_language, clusters):
  return win_rate.summarize(
    by_language, clusters, seed=0, num_resamples=2000, confidence=0.95
  )


def test_languages_are_averaged_after_not_before():
  by_language = {
    "eng_Latn": np.tile([1.0, 0, 0], (90, 1)),
    "swh_Latn": np.tile([0, 1.0, 0], (10, 1)),
  }
  clusters = {
    k: [str(i) for i in range(len(v))] for k, v in by_language.items()
  }
  summary = _summary(by_language, clusters)
  assert summary["overall"]["delta"] == 0
  assert summary["by_language"]["eng_Latn"]["delta"] == 100
  assert summary["by_language"]["swh_Latn"]["win"] == 0
  assert summary["overall"]["prompts"] == 100


def test_interval_agrees_with_the_normal_approximation():
  rng = np.random.default_rng(3)
  wins = rng.random(400) < 0.6
  shares = np.stack([wins, ~wins, np.zeros(400)], axis=1).astype(float)
  summary = _summary({"tha_Thai": shares}, {"tha_Thai": range(400)})
  row = summary["overall"]
  deltas = 100 * (shares[:, 0] - shares[:, 1])
  half_width = 1.96 * deltas.std() / 20
  assert row["low"] == pytest.approx(row["delta"] - half_width, abs=1.0)
  assert row["high"] == pytest.approx(row["delta"] + half_width, abs=1.0)


def test_repeated_prompts_of_one_document_do_not_narrow_the_interval():
  rng = np.random.default_rng(4)
  wins = rng.random(50) < 0.5
  shares = np.stack([wins, ~wins, np.zeros(50)], axis=1).astype(float)
  once = _summary({"kor_Hang": shares}, {"kor_Hang": range(50)})["overall"]
  repeated = _summary(
    {"kor_Hang": np.repeat(shares, 4, axis=0)},
    {"kor_Hang": np.repeat(np.arange(50), 4)},
  )["overall"]
  width = once["high"] - once["low"]
  assert repeated["high"] - repeated["low"] == pytest.approx(width, rel=0.05)


def test_standard_error_without_clusters_is_the_textbook_one():
  values = np.random.default_rng(5).normal(size=200)
  mean, error = win_rate.mean_and_standard_error(values, range(200))
  assert mean == pytest.approx(values.mean())
  assert error == pytest.approx(values.std(ddof=1) / np.sqrt(200))


def test_standard_error_of_one_cluster_is_unknown():
  _, error = win_rate.mean_and_standard_error(np.ones(3), ["a", "a", "a"])
  assert np.isnan(error)


def test_nothing_to_compare_is_an_error():
  with pytest.raises(ValueError, match="no comparisons"):
    _summary({}, {})
