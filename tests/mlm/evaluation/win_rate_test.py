"""Win rates against hand-worked examples and closed forms."""

import numpy as np
import pytest

from mlm.evaluation import win_rate
from mlm.languages import registry


def test_outcomes_compare_every_pair_of_samples():
  shares = win_rate.outcomes(
    np.array([[1.0, 0.0]]), np.array([[0.5, 0.0]]), margin=0.0
  )
  # 1>.5, 1>0, 0<.5, 0=0.
  np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25]])


def test_margin_makes_ties():
  shares = win_rate.outcomes(np.array([[1.0]]), np.array([[0.95]]), margin=0.1)
  np.testing.assert_allclose(shares, [[0, 0, 1]])


def _summary(shares, languages, clusters, *, seen=None, num_resamples=2000):
  return win_rate.summarize(
    np.asarray(shares, float),
    languages=languages,
    clusters=clusters,
    seen=seen,
    seed=0,
    num_resamples=num_resamples,
    confidence=0.95,
  )


def _shares(wins):
  return np.stack([wins, ~wins, np.zeros(len(wins))], axis=1).astype(float)


def _width(row):
  return row["high"] - row["low"]


def test_languages_are_averaged_after_not_before():
  shares = [[1, 0, 0]] * 90 + [[0, 1, 0]] * 10
  languages = ["eng_Latn"] * 90 + ["swh_Latn"] * 10
  summary = _summary(shares, languages, range(100))
  assert summary["overall"]["delta"] == 0
  assert summary["by_language"]["eng_Latn"]["delta"] == 100
  assert summary["by_language"]["swh_Latn"]["win"] == 0
  assert summary["overall"]["prompts"] == 100
  assert summary["overall"]["clusters"] == 100


def test_interval_agrees_with_the_normal_approximation():
  shares = _shares(np.random.default_rng(3).random(400) < 0.6)
  row = _summary(shares, ["tha_Thai"] * 400, range(400))["overall"]
  deltas = 100 * (shares[:, 0] - shares[:, 1])
  half_width = 1.96 * deltas.std() / 20
  assert row["low"] == pytest.approx(row["delta"] - half_width, abs=1.0)
  assert row["high"] == pytest.approx(row["delta"] + half_width, abs=1.0)


def test_repeated_prompts_of_one_document_do_not_narrow_the_interval():
  shares = _shares(np.random.default_rng(4).random(50) < 0.5)
  codes = ["kor_Hang"] * 50
  once = _summary(shares, codes, range(50))["overall"]
  repeated = _summary(
    np.repeat(shares, 4, axis=0), codes * 4, np.repeat(range(50), 4)
  )["overall"]
  assert _width(repeated) == pytest.approx(_width(once), rel=0.05)


LANGUAGES = ("eng_Latn", "tha_Thai", "rus_Cyrl", "arb_Arab", "hin_Deva")


def test_the_same_prompt_in_all_languages_counts_as_one():
  """Verdicts that are the same in all languages: sqrt(5) times as wide."""
  wins = np.random.default_rng(6).random(300) < 0.5
  shares = _shares(np.tile(wins, 5))
  languages = np.repeat(LANGUAGES, 300)
  shared = np.tile(np.arange(300), 5)
  clustered = _summary(shares, languages, shared)
  naive = _summary(shares, languages, range(1500))
  ratio = _width(clustered["overall"]) / _width(naive["overall"])
  assert ratio == pytest.approx(np.sqrt(5), rel=0.08)
  assert clustered["overall"]["clusters"] == 300
  # Within a language nothing is repeated, so nothing changes there.
  for code in LANGUAGES:
    rows = [of["by_language"][code] for of in (clustered, naive)]
    assert _width(rows[0]) == pytest.approx(_width(rows[1]), rel=0.1)


def _coverage(num_languages, num_prompts, num_trials, *, spread):
  """Shares of trials whose interval has the truth: clustered, and naive.

  Prompts differ in how good the policy is at them, in all languages alike: its
  log-odds of winning are normal around 0, so the true delta is 0.
  """
  rng = np.random.default_rng(9)
  codes = registry.codes()[:num_languages]
  languages = np.repeat(codes, num_prompts)
  shared = np.tile(np.arange(num_prompts), num_languages)
  hits = np.zeros(2)
  for _ in range(num_trials):
    chance = 1 / (1 + np.exp(-spread * rng.normal(size=num_prompts)))
    shares = _shares(rng.random(len(languages)) < chance[shared])
    for i, clusters in enumerate((shared, np.arange(len(languages)))):
      row = _summary(shares, languages, clusters, num_resamples=200)["overall"]
      hits[i] += row["low"] <= 0 <= row["high"]
  return hits / num_trials


def test_clustered_intervals_hold_the_truth_and_naive_ones_do_not():
  """Standard error of a coverage of 0.95 in 100 trials: 0.022."""
  clustered, naive = _coverage(8, 60, 100, spread=1.5)
  assert clustered > 0.95 - 3 * 0.022
  assert naive < 0.8


def test_independent_verdicts_on_shared_prompts_are_not_made_wider():
  rng = np.random.default_rng(7)
  shares = _shares(rng.random(1500) < 0.5)
  languages = np.repeat(LANGUAGES, 300)
  clustered, naive = (
    _summary(shares, languages, clusters)["overall"]
    for clusters in (np.tile(np.arange(300), 5), range(1500))
  )
  assert _width(clustered) == pytest.approx(_width(naive), rel=0.12)


def test_languages_that_share_no_prompt_keep_their_number_of_clusters():
  draws = win_rate.draw_clusters(
    [*"abc", *"xy", "a", "b"],
    ["rus_Cyrl"] * 3 + ["tha_Thai"] * 2 + ["eng_Latn"] * 2,
    seed=0,
    num_resamples=50,
  )
  of = dict(zip(np.unique([*"abcxy"]), draws.counts.T))
  np.testing.assert_array_equal(of["a"] + of["b"] + of["c"], 3)
  np.testing.assert_array_equal(of["x"] + of["y"], 2)
  assert len(np.unique(of["a"])) > 1


def test_swapping_the_policies_negates_every_number():
  rng = np.random.default_rng(8)
  shares = rng.dirichlet([1, 1, 1], 200)
  languages = rng.choice(LANGUAGES, 200)
  clusters = rng.integers(0, 60, 200)
  one, other = (
    _summary(values, languages, clusters, seen=["eng_Latn", "rus_Cyrl"])
    for values in (shares, shares[:, [1, 0, 2]])
  )
  assert set(one["groups"]) >= {"seen", "unseen", "script Cyrl"}
  for name in ("by_language", "groups"):
    for key, row in one[name].items():
      mirrored = other[name][key]
      assert row["delta"] == pytest.approx(-mirrored["delta"])
      assert row["low"] == pytest.approx(-mirrored["high"])
      assert row["tie"] == mirrored["tie"]


def test_groups_average_their_languages():
  shares = np.eye(3)[[0, 1, 2, 0]]
  summary = _summary(
    shares,
    ["eng_Latn", "swh_Latn", "rus_Cyrl", "tha_Thai"],
    [*"abcd"],
    seen=["eng_Latn", "rus_Cyrl", "deu_Latn"],
  )
  groups = summary["groups"]
  assert groups["seen"]["delta"] == 50  # a win and a tie
  assert groups["unseen"]["delta"] == 0  # a loss and a win
  assert groups["script Latn"]["delta"] == 0
  assert groups["script Cyrl"]["tie"] == 100
  assert groups["script Latn"]["low"] < 0 < groups["script Latn"]["high"] or (
    groups["script Latn"]["low"] == groups["script Latn"]["high"] == 0
  )


def test_all_ties_are_a_delta_of_zero_without_width():
  row = _summary([[0, 0, 1]] * 4, ["tha_Thai"] * 4, range(4))["overall"]
  assert (row["win"], row["loss"], row["tie"]) == (0, 0, 100)
  assert row["delta"] == row["low"] == row["high"] == 0


def test_one_cluster_has_no_interval():
  row = _summary([[1, 0, 0]] * 2, ["tha_Thai"] * 2, ["a", "a"])["overall"]
  assert row["delta"] == 100 and row["low"] is row["high"] is None


def test_seen_languages_that_are_not_compared_are_an_error():
  with pytest.raises(ValueError, match="none of the languages compared"):
    _summary([[1, 0, 0]], ["tha_Thai"], ["a"], seen=["eng_Latn"])


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
    _summary(np.zeros((0, 3)), [], [])
