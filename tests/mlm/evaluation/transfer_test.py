"""Matrices of transfer against published means, closed forms and the bootstrap."""

import numpy as np
import pytest

from mlm.evaluation import published_transfer, transfer
from mlm.evaluation import win_rate as win_rate_lib

CODES = ("deu_Latn", "eng_Latn", "rus_Cyrl")


def test_published_means_are_those_of_the_paper():
  """58.8 and 57.5 are in its section 5.1, as means of 30 cells."""
  means = dict(transfer.published_means())
  table_6, table_17 = (
    "Wu et al. 2024, Table 6",
    "Wu et al. 2024, Table 17 (translate-train)",
  )
  assert round(means[f"{table_6}: off-diagonal"], 1) == 58.8
  assert round(means[f"{table_6}: diagonal"], 1) == 58.7
  assert round(means[f"{table_17}: off-diagonal"], 1) == 57.5
  assert f"{table_17}: diagonal" not in means
  assert len(published_transfer.TABLE_6) == 36
  assert len(published_transfer.TABLE_17) == 30
  better = sum(
    published_transfer.TABLE_6[cell] > value
    for cell, value in published_transfer.TABLE_17.items()
  )
  assert better == 20


def _summary(values, **changes):
  """Of {cell: outcomes of prompts 0, 1, …}."""
  cells, outcomes, clusters = [], [], []
  for cell, of in values.items():
    for i, outcome in enumerate(of):
      cells.append(transfer.Cell(*cell))
      outcomes.append(outcome)
      clusters.append(str(i))
  settings = {"seed": 0, "num_resamples": 500, "confidence": 0.95}
  return transfer.summarize(
    cells, outcomes, clusters, **{**settings, **changes}
  )


def _drawn(rng, size, share):
  return np.where(rng.random(size) < share, "A", "B").tolist()


def test_win_rates_count_ties_half_and_leave_out_what_has_no_verdict():
  summary = _summary(
    {
      ("transfer", "eng_Latn", "eng_Latn"): ["A", "A", "B", "TIE"],
      ("transfer", "eng_Latn", "rus_Cyrl"): ["B", "NO_VERDICT", "TIE", "B"],
    }
  )
  assert [row["win_rate"] for row in summary["cells"]] == [62.5, 50 / 3]
  assert summary["no_verdict"] == 1
  assert summary["cells"][1]["prompts"] == 3


def test_means_are_unweighted_over_cells_and_know_the_diagonal():
  rng = np.random.default_rng(0)
  values = {
    ("transfer", s, t): _drawn(rng, 40, 0.8 if s == t else 0.6)
    for s in CODES
    for t in CODES
  }
  values["bilingual", "deu_Latn+eng_Latn", "eng_Latn"] = ["A"] * 40
  values["bilingual", "deu_Latn+eng_Latn", "rus_Cyrl"] = ["A", "B"] * 20
  summary = _summary(values)
  cells = {
    (r["grid"], r["source"], r["target"]): r["win_rate"]
    for r in summary["cells"]
  }
  means = {row["name"]: row for row in summary["means"]}
  diagonal = np.mean([cells["transfer", c, c] for c in CODES])
  off = np.mean(
    [cells["transfer", s, t] for s in CODES for t in CODES if s != t]
  )
  assert means["transfer: diagonal"]["mean"] == pytest.approx(diagonal)
  assert means["transfer: off-diagonal"]["mean"] == pytest.approx(off)
  row = means["transfer: off-diagonal − diagonal"]
  assert row["mean"] == pytest.approx(off - diagonal)
  assert row["low"] < row["mean"] < row["high"]
  assert means["bilingual: diagonal"]["mean"] == 100
  assert means["bilingual: off-diagonal"]["mean"] == 50
  # No cell is off the diagonal in both grids: nothing to compare.
  assert "bilingual − transfer: off-diagonal" not in means


def test_differences_between_grids_are_paired():
  """The same verdicts but for a tenth: far narrower than unpaired."""
  rng = np.random.default_rng(1)
  base = _drawn(rng, 400, 0.5)
  other = [("A" if i % 10 == 0 else o) for i, o in enumerate(base)]
  summary = _summary(
    {
      ("transfer", "eng_Latn", "rus_Cyrl"): base,
      ("translate-train", "eng_Latn", "rus_Cyrl"): other,
    }
  )
  means = {row["name"]: row for row in summary["means"]}
  paired = means["translate-train − transfer: off-diagonal"]
  gained = np.mean([(o == "A") - (b == "A") for b, o in zip(base, other)])
  assert paired["mean"] == pytest.approx(100 * gained)
  alone = means["transfer: off-diagonal"]
  assert paired["high"] - paired["low"] < (alone["high"] - alone["low"]) / 2
  half = 1.96 * 100 * np.sqrt(gained * (1 - gained) / 400)
  assert paired["low"] == pytest.approx(paired["mean"] - half, abs=0.6)


def test_a_prompt_in_every_target_is_one_cluster():
  """The same outcome of a prompt in all cells: as wide as a single cell."""
  rng = np.random.default_rng(2)
  outcomes = _drawn(rng, 200, 0.5)
  summary = _summary(
    {("transfer", s, t): outcomes for s in CODES for t in CODES},
    num_resamples=2000,
  )
  cell = summary["cells"][0]
  mean = next(r for r in summary["means"] if r["name"].endswith("off-diagonal"))
  assert mean["high"] - mean["low"] == pytest.approx(cell["high"] - cell["low"])


def test_best_of_n_takes_the_highest_and_the_first_of_equals():
  scores = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, -1.0]])
  assert transfer.best_of_n(scores).tolist() == [1, 0]
  with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
    transfer.best_of_n(np.array([[0.0, np.nan]]))


def test_best_of_n_by_the_judges_own_score_wins_n_of_n_plus_one():
  """Of n + 1 equal draws the last is the best with probability 1/(n + 1)."""
  rng = np.random.default_rng(3)
  scores = rng.normal(size=(4000, 8))
  best = transfer.best_of_n(scores[:, :7])
  wins = scores[np.arange(4000), best] > scores[:, 7]
  assert wins.mean() == pytest.approx(7 / 8, abs=3 * np.sqrt(7 / 64 / 4000))


def test_no_verdict_is_an_error():
  with pytest.raises(ValueError, match="none of 1 comparisons"):
    _summary({("transfer", "eng_Latn", "eng_Latn"): ["NO_VERDICT"]})


def test_columns_that_a_resample_misses_are_left_out_of_its_mean():
  values = np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 3.0]])
  np.testing.assert_array_equal(
    win_rate_lib.means_of_known(values), [1.0, np.nan, 2.0]
  )
