"""Calibration by language: intervals, shortcuts, and who is at chance."""

import math

import numpy as np
import pytest
import scipy.stats

from mlm.alignment import calibration
from mlm.languages import registry

LANGUAGES = ("eng_Latn", "rus_Cyrl", "hin_Deva", "arb_Arab", "tha_Thai")
AT_CHANCE = "tha_Thai"
PAIRS = 60


def _scores(rng):
  """Chosen scores lie 2 above, and not at all in the planted language."""
  languages = np.repeat(LANGUAGES, PAIRS)
  rejected = rng.normal(3.0, 2.0, len(languages))
  gap = np.where(languages == AT_CHANCE, 0.0, 2.0)
  return languages, rejected + gap + rng.normal(0, 1, len(languages)), rejected


def _calibration(seed=0):
  rng = np.random.default_rng(seed)
  languages, chosen, rejected = _scores(rng)
  return calibration.summarize(
    languages=languages,
    chosen=chosen,
    rejected=rejected,
    shortcuts={"length": chosen - rejected, "tokens": np.zeros(len(chosen))},
    confidence=0.95,
  )


@pytest.mark.parametrize("right, total", [(0, 7), (3, 7), (7, 7), (640, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_are_those_of_scipy(right, total, confidence):
  found = calibration.wilson_interval(right, total, confidence=confidence)
  theirs = scipy.stats.binomtest(right, total).proportion_ci(
    confidence, method="wilson"
  )
  assert found == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_planted_language_at_chance_is_named_with_its_numbers():
  found = _calibration()
  told = calibration.at_chance(found, LANGUAGES)
  assert list(told) == [AT_CHANCE]
  assert f"on {PAIRS} pairs" in told[AT_CHANCE]
  assert f"{found['by_language'][AT_CHANCE]['accuracy']:.2f}" in told[AT_CHANCE]


def test_the_average_hides_it():
  assert _calibration()["together"]["low"] > 0.7


def test_a_language_below_chance_or_without_pairs_is_named_too():
  languages, chosen, rejected = _scores(np.random.default_rng(1))
  found = calibration.summarize(
    languages=languages,
    chosen=rejected,
    rejected=chosen,
    shortcuts={},
    confidence=0.95,
  )
  told = calibration.at_chance(found, [*LANGUAGES, "amh_Ethi"])
  assert set(told) == {*LANGUAGES, "amh_Ethi"}
  assert told["amh_Ethi"] == "no held-out pairs"


def test_few_pairs_are_not_enough_however_right():
  """3 of 3 may be luck; 5 of 5 is not, at 95 %."""
  for number, named in ((3, True), (5, False)):
    found = calibration.summarize(
      languages=["kat_Geor"] * number,
      chosen=np.ones(number),
      rejected=np.zeros(number),
      shortcuts={},
      confidence=0.95,
    )
    assert bool(calibration.at_chance(found, ["kat_Geor"])) == named


def test_rows_have_log_loss_and_agreement_by_closed_form():
  found = calibration.summarize(
    languages=["eng_Latn", "eng_Latn", "hin_Deva", "hin_Deva"],
    chosen=np.array([2.0, 0.0, 1.0, 1.0]),
    rejected=np.array([0.0, 1.0, 0.0, 0.0]),
    shortcuts={"length": np.array([3.0, 2.0, -1.0, 0.0])},
    confidence=0.95,
  )
  english, hindi = (found["by_language"][c] for c in ("eng_Latn", "hin_Deva"))
  assert english["log_loss"] == pytest.approx(
    (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
  )
  assert english["length_accuracy"] == 1.0
  assert english["length_agreement"] == 0.5  # it prefers the second, we do not
  assert hindi["length_accuracy"] == hindi["length_agreement"] == 0.25
  assert found["together"]["pairs"] == 4


def test_each_language_can_be_standardized_by_its_own_samples():
  found = _calibration()
  by_language = calibration.standardization(found, LANGUAGES, by_language=True)
  together = calibration.standardization(found, LANGUAGES, by_language=False)
  _, _, rejected = _scores(np.random.default_rng(0))
  for number, code in enumerate(LANGUAGES):
    own = rejected[number * PAIRS : (number + 1) * PAIRS]
    place = registry.index(code)
    mean, std = (x[place] for x in by_language)
    assert (mean, std) == pytest.approx((own.mean(), own.std()), rel=1e-5)
    mean, std = (x[place] for x in together)
    assert (mean, std) == pytest.approx((rejected.mean(), rejected.std()))
  assert np.isnan(by_language[0][registry.index("kat_Geor")])


def test_scores_without_spread_cannot_be_standardized():
  found = _calibration()
  found["by_language"]["hin_Deva"]["std"] = 0.0
  with pytest.raises(ValueError, match="hin_Deva have no spread"):
    calibration.standardization(found, LANGUAGES, by_language=True)
  with pytest.raises(ValueError, match="kat_Geor have no held-out pairs"):
    calibration.standardization(found, ["kat_Geor"], by_language=True)


def _responses(rng, number, lengths, tokens):
  rows = np.zeros((number, 8), np.int32)
  for row in rows:
    length = rng.choice(lengths)
    row[:length] = rng.choice(tokens, length)
  return rows


def test_length_learns_which_way_the_pairs_lean():
  rng = np.random.default_rng(4)
  short, long = (
    _responses(rng, 50, lengths, [10, 11]) for lengths in ([2, 3], [5, 6])
  )
  for chosen, rejected in ((short, long), (long, short)):
    of = calibration.fit_shortcuts(chosen, rejected, vocab_size=12)
    assert (of(chosen, rejected)["length"] > 0).all()
    assert (of(rejected, chosen)["length"] < 0).all()


def test_tokens_find_a_giveaway_that_length_does_not():
  rng = np.random.default_rng(5)
  chosen = _responses(rng, 200, [4], [10, 11, 12, 13])
  rejected = _responses(rng, 200, [4], [10, 11, 12, 14])
  of = calibration.fit_shortcuts(chosen[:100], rejected[:100], vocab_size=20)
  found = of(chosen[100:], rejected[100:])
  assert (found["length"] == 0).all()
  gives_away = (chosen[100:] == 13).any(1) & (rejected[100:] == 14).any(1)
  assert (found["tokens"][gives_away] > 0).all()


def test_tokens_are_naive_bayes_by_hand():
  """Counts plus one over pad, 5 and 6: chosen 1, 3, 1 and rejected 1, 1, 2."""
  of = calibration.fit_shortcuts(
    np.array([[5, 5, 0]]), np.array([[6, 0, 0]]), vocab_size=7
  )
  found = of(np.array([[5, 6, 0]]), np.array([[5, 5, 0]]))["tokens"]
  # Seven entries: chosen counts sum to 9, rejected to 8.
  odds = {5: math.log(3 / 9 * 8 / 1), 6: math.log(1 / 9 * 8 / 2)}
  assert found[0] == pytest.approx(odds[6] - odds[5])
