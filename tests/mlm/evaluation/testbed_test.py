"""What is said of a testbed's seeds, on results made by hand."""

import numpy as np
import pytest

from mlm.evaluation import testbed, testbed_report

LANGUAGES = ["qaa_Zzzz", "qab_Zzzz", "qac_Zzzz"]
PROMPTS = 8
SETTINGS = {"confidence": 0.95, "num_resamples": 200}


def _scores(wins):
  """Scores that beat an opponent of 0 in a share of prompts by language."""
  return np.stack(
    [
      np.repeat(np.where(np.arange(PROMPTS) < PROMPTS * share, 1.0, -1.0), 2)
      .reshape(PROMPTS, 2)
      .astype(np.float32)
      for share in wins
    ]
  )


def _trial(method, rate, varies="rate", **changes):
  return {
    "method": method,
    "rate": rate,
    "beta": 0.1,
    "varies": varies,
    "kl": dict.fromkeys(LANGUAGES, 0.5),
    "reward": dict(zip(LANGUAGES, (1.0, 2.0, 3.0))),
    "stop_rule": [],
    **changes,
  }


def _calibration(low):
  row = {
    "pairs": 10,
    "accuracy": 0.7,
    "low": low,
    "high": 0.9,
    "length_accuracy": 0.5,
    "tokens_accuracy": 0.6,
  }
  return {"by_language": dict.fromkeys(LANGUAGES, row)}


def _seed(number=0, refused=False):
  """EN-1 (DPO at two rates, RLOO at one) and ML-2 (one each)."""
  dpo = {"a": _trial("dpo", 1e-4), "b": _trial("dpo", 3e-4)}
  en_rloo = _trial("rloo", 1e-4, **({"refused": {}} if refused else {}))
  mixtures = {
    "EN-1": {"languages": LANGUAGES[:1], "trials": {**dpo, "c": en_rloo}},
    "ML-2": {
      "languages": LANGUAGES[:2],
      "trials": {
        "d": _trial("dpo", 1e-4),
        "e": _trial("rloo", 1e-4),
        "f": _trial("rloo", 1e-4, varies="beta"),
      },
    },
  }
  for of_mixture in mixtures.values():
    of_mixture |= {
      "calibration": _calibration(0.4),
      "clean_accuracy": dict(zip(LANGUAGES, (0.9, 0.4, None))),
      "best_of_n": {"macro": [{"n": 1, "proxy": 0.2}]},
    }
  scores = {
    f"{split}/{name}": np.zeros((3, PROMPTS, 4), np.float32)
    for split in ("validation", "test")
    for name in ("opponent", "control")
  }
  of_trials = {
    # validation shares of wins, test shares of wins
    "a": ((0.5, 0.5, 0.75), (0.25, 0.5, 0.5)),
    "b": ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
    "c": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "d": ((0.5, 0.5, 0.5), (0.75, 0.75, 0.75)),
    "e": ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0)),
    "f": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
  }
  for name, by_split in of_trials.items():
    for split, wins in zip(("validation", "test"), by_split):
      scores[f"{split}/{name}"] = _scores(wins)
  if refused:
    del scores["validation/c"], scores["test/c"]
  summary = {"seed": number, "languages": LANGUAGES, "mixtures": mixtures}
  return testbed.Seed(summary, scores)


def test_rates_are_chosen_on_validation_and_betas_are_not():
  seed = _seed()
  assert testbed.chosen(seed, "EN-1", "dpo") == "a"  # b is better on the test
  assert testbed.chosen(seed, "ML-2", "rloo") == "e"  # f has another beta
  assert testbed.chosen(_seed(refused=True), "EN-1", "rloo") is None


def test_rows_have_every_language_and_then_the_groups():
  rows = {
    (row["mixture"], row["method"], row["rate"], row["language"]): row
    for row in testbed.trial_rows([_seed()])
    if row["beta"] == 0.1 or row["mixture"] == "SFT again"
  }
  of_a = [rows["EN-1", "dpo", 1e-4, name] for name in LANGUAGES]
  assert [row["win"] for row in of_a] == [25, 50, 50]
  assert [row["delta"] for row in of_a] == [-50, 0, 0]
  assert [row["seen"] for row in of_a] == [1, 0, 0]
  unseen = rows["EN-1", "dpo", 1e-4, "unseen"]
  assert (unseen["delta"], unseen["prompts"]) == (0, 2 * PROMPTS)
  assert unseen["learned_reward"] == pytest.approx(2.5)
  assert rows["EN-1", "dpo", 1e-4, "English"]["delta"] == -50
  again = rows["SFT again", "", "", "all"]
  assert (again["win"], again["tie"], again["gold"]) == (0, 100, 0)
  assert ("SFT again", "", "", "unseen") not in rows


def test_standard_errors_are_over_meanings_and_not_over_languages():
  (row,) = (
    row
    for row in testbed.trial_rows([_seed()])
    if (row["mixture"], row["method"], row["language"])
    == ("ML-2", "dpo", "all")
  )
  # Parallel prompts: 6 of 8 meanings are won in all three languages alike.
  expected = np.std([100] * 6 + [-100] * 2, ddof=1) / np.sqrt(8)
  assert row["standard_error"] == pytest.approx(expected)


def test_contrasts_by_hand():
  rows = {
    (row["contrast"], row["languages"]): row
    for row in testbed.contrast_rows([_seed(0), _seed(1)], **SETTINGS)
  }
  # Win - loss: a -50 0 0, c 0 0 0, d 50 50 50, e -50 0 100.
  expected = {
    ("RLOO - DPO, EN-1", "all"): 50 / 3,
    ("RLOO - DPO, EN-1", "unseen"): 0,
    ("RLOO - DPO, EN-1", "English"): 50,
    ("RLOO - DPO, ML-2", "all"): -100 / 3,
    ("RLOO - DPO, ML-2", "unseen"): 50,
    ("RLOO - DPO, ML-2", "English"): -100,
    ("ML-2 - EN-1, DPO", "all"): 200 / 3,
    ("ML-2 - EN-1, DPO", "unseen"): 50,  # unseen by both: the third
    ("ML-2 - EN-1, DPO", "English"): 100,
    ("ML-2 - EN-1, RLOO", "all"): 50 / 3,
    ("ML-2 - EN-1, RLOO", "unseen"): 100,
    ("ML-2 - EN-1, RLOO", "English"): -50,
  }
  assert set(rows) == set(expected)
  for key, value in expected.items():
    assert rows[key]["difference"] == pytest.approx(value, abs=1e-9), key
    assert rows[key]["seeds"] == 2
    assert rows[key]["p_holm"] >= rows[key]["p"]
  sft = {
    (row["contrast"], row["languages"]): row["difference"]
    for row in testbed.against_sft_rows([_seed()], **SETTINGS)
  }
  assert sft["RLOO - SFT, ML-2", "all"] == pytest.approx(50 / 3)
  assert sft["DPO - SFT, EN-1", "English"] == pytest.approx(-50)


def test_a_refused_trial_takes_its_seed_out_of_its_contrasts_only():
  rows = {
    (row["contrast"], row["languages"]): row["seeds"]
    for row in testbed.contrast_rows([_seed(0), _seed(1, True)], **SETTINGS)
  }
  assert rows["RLOO - DPO, EN-1", "all"] == 1
  assert rows["ML-2 - EN-1, RLOO", "all"] == 1
  assert rows["ML-2 - EN-1, DPO", "all"] == 2


def test_accuracy_is_told_beside_the_outcome():
  rows = testbed.reward_model_rows([_seed()])
  first = rows[0]
  assert (first["mixture"], first["gate"]) == ("EN-1", "chance")
  assert (first["delta_dpo"], first["delta_rloo"]) == (-50, 0)
  # Clear pairs are missing in one language of each mixture.
  rho, number = testbed.rank_correlation(rows, "rloo")
  assert number == 4 and -1 <= rho <= 1


def test_equal_kl_by_hand():
  def row(seed, method, kl, gold):
    return {"seed": seed, "method": method, "kl": kl, "gold": gold}

  rows = [
    row(0, "dpo", 0.0, 0.0),  # the fine-tuned model counts for nothing
    row(0, "rloo", 0.0, 0.0),
    row(0, "dpo", 0.4, 1.2),
    row(0, "dpo", 2.0, 2.0),
    row(0, "rloo", 3.0, 4.0),
    row(0, "rloo", 1.0, 2.0),
    row(1, "dpo", 0.5, 1.5),
    row(1, "dpo", 1.0, 2.0),
    row(1, "rloo", 0.5, 1.0),
    row(1, "rloo", 3.0, 1.0),
  ]
  rows = [{**of_seed, "mixture": "ML-2"} for of_seed in rows]
  found = testbed.equal_kl_rows(rows, [0.3, 1.0, 1.5, 5.0], confidence=0.95)
  assert [row["kl"] for row in found] == [1.0, 1.5]  # nobody is at 0.3 or 5
  assert found[0]["by_seed"] == pytest.approx([0.5, -1.0])
  assert found[0]["rloo_minus_dpo"] == pytest.approx(-0.25)
  # t(1) at 97.5 % is 12.7062; the standard error of two is half their distance.
  assert found[0]["high_t"] == pytest.approx(-0.25 + 12.7062 * 0.75, rel=1e-5)
  assert found[1]["by_seed"] == pytest.approx([2.5 - 1.75])


def test_the_frontier_begins_at_the_fine_tuned_model():
  rows = testbed.frontier_rows([_seed(), _seed(1, True)])
  starts = [row for row in rows if row["kl"] == 0]
  assert len(starts) == 2 * 2 * 2 and {row["gold"] for row in starts} == {0.0}
  assert len(rows) == len(starts) + 6 + 5  # a trial was refused


def test_a_directory_without_seeds_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match="align_testbed"):
    testbed_report.write(str(tmp_path), **SETTINGS)
