"""Reward transfer: a policy of one language, a reward learned in another.

A cell is a grid, such as plain transfer or translate-train, a source, the
language or languages of the reward's pairs, and a target, the language of the
policy. Its win rate is that of what the reward chose or trained over a sample
of the target's fine-tuned model, ties counting half, in percent.

Source: Wu et al. 2024, "Reuse Your Rewards" (arXiv 2404.12318).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlm.evaluation import judge as judge_lib
from mlm.evaluation import published_transfer, win_rate

_VALUES = {judge_lib.A: 100.0, judge_lib.TIE: 50.0, judge_lib.B: 0.0}


class Cell(NamedTuple):
  """One entry of a matrix of transfer.

  Attributes:
    grid: name of the matrix.
    source: code of the reward's language, or several joined by "+".
    target: code of the policy's language.
  """

  grid: str
  source: str
  target: str

  @property
  def is_diagonal(self) -> bool:
    """Whether the reward has learned from pairs in the target's language."""
    return self.target in self.source.split("+")


def best_of_n(scores: np.ndarray) -> np.ndarray:
  """Place of the highest score of each row, the first of equals; int [B].

  Args:
    scores: float [B, n].

  Raises:
    ValueError: if a score is not a number.
  """
  if not np.isfinite(scores).all():
    raise ValueError(
      f"{(~np.isfinite(scores)).sum()} of {scores.size} scores are not finite; "
      "the reward that gave them cannot choose"
    )
  return scores.argmax(axis=1)


def summarize(
  cells: Sequence[Cell],
  outcomes: Sequence[str],
  clusters: Sequence[str],
  *,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> dict:
  """Win rates of cells, and of means over cells, with intervals.

  One bootstrap over source prompts, in all languages and cells at once, gives
  all intervals, so differences of means are paired.

  Args:
    cells: of each comparison.
    outcomes: of each, of `judge.outcome`; those without verdict are left out.
    clusters: name of each comparison's source prompt.
    seed: of the bootstrap.
    num_resamples: of it.
    confidence: of intervals, such as 0.95.

  Returns:
    {"confidence", "cells": [row], "means": [row], "no_verdict": comparisons};
    a row of cells has grid, source, target, win_rate, low, high (None with one
    cluster), prompts and clusters. A row of means has name, mean, low, high and
    cells (their number): for each grid "diagonal", "off-diagonal" and their
    difference, and for each grid after the first the difference to the first
    one over the cells off the diagonal that both have.

  Raises:
    ValueError: if no comparison has a verdict.
  """
  judged = [i for i, o in enumerate(outcomes) if o != judge_lib.NO_VERDICT]
  if not judged:
    raise ValueError(
      f"none of {len(outcomes)} comparisons has a verdict; choose a judge that "
      "knows the target languages"
    )
  names = list(dict.fromkeys(cells[i] for i in judged))
  place = {cell: i for i, cell in enumerate(names)}
  column = np.array([place[cells[i]] for i in judged])
  values = np.array([_VALUES[outcomes[i]] for i in judged])
  draws = win_rate.draw_clusters(
    [clusters[i] for i in judged],
    [str(tuple(cells[i])) for i in judged],
    seed=seed,
    num_resamples=num_resamples,
  )
  means = np.array([values[column == i].mean() for i in range(len(names))])
  resampled = win_rate.resampled_means(values, column, len(names), draws)

  def bounds(resamples, of):
    if len(np.unique(draws.index[of])) < 2:
      return {"low": None, "high": None}
    low, high = win_rate.interval(resamples, confidence=confidence)
    return {"low": low, "high": high}

  rows = []
  for i, cell in enumerate(names):
    of = column == i
    rows.append(
      {
        **cell._asdict(),
        "win_rate": float(means[i]),
        **bounds(resampled[:, i], of),
        "prompts": int(of.sum()),
        "clusters": len(np.unique(draws.index[of])),
      }
    )

  def mean(chosen):
    return float(means[chosen].mean()), win_rate.means_of_known(
      resampled[:, chosen]
    )

  def row(name, plus, minus):
    value, resamples = mean(plus)
    if minus:
      other, of_other = mean(minus)
      value, resamples = value - other, resamples - of_other
    of = np.isin(column, [*plus, *minus])
    return {
      "name": name,
      "mean": value,
      **bounds(resamples, of),
      "cells": len(plus),
    }

  told = []
  grids = list(dict.fromkeys(cell.grid for cell in names))
  off = {
    grid: {
      c[1:]: i for c, i in place.items() if c.grid == grid and not c.is_diagonal
    }
    for grid in grids
  }
  for grid in grids:
    diagonal = [i for c, i in place.items() if c.grid == grid and c.is_diagonal]
    others = list(off[grid].values())
    if diagonal:
      told.append(row(f"{grid}: diagonal", diagonal, []))
    if others:
      told.append(row(f"{grid}: off-diagonal", others, []))
    if diagonal and others:
      told.append(row(f"{grid}: off-diagonal − diagonal", others, diagonal))
  for grid in grids[1:]:
    shared = [key for key in off[grids[0]] if key in off[grid]]
    if shared:
      told.append(
        row(
          f"{grid} − {grids[0]}: off-diagonal",
          [off[grid][key] for key in shared],
          [off[grids[0]][key] for key in shared],
        )
      )
  return {
    "confidence": confidence,
    "cells": rows,
    "means": told,
    "no_verdict": len(outcomes) - len(judged),
  }


def published_means() -> list[tuple[str, float]]:
  """Means of the published tables, unweighted over cells, in percent."""
  tables = {
    "Wu et al. 2024, Table 6": published_transfer.TABLE_6,
    "Wu et al. 2024, Table 17 (translate-train)": published_transfer.TABLE_17,
  }
  found = []
  for name, cells in tables.items():
    for label, is_diagonal in (("diagonal", True), ("off-diagonal", False)):
      of = [v for (s, t), v in cells.items() if (s == t) == is_diagonal]
      if of:
        found.append((f"{name}: {label}", float(np.mean(of))))
  return found


def grids_of(results: Mapping) -> dict[str, dict[tuple[str, str], float]]:
  """{grid: {(source, target): win rate}} of `summarize`'s results."""
  grids: dict[str, dict] = {}
  for row in results["cells"]:
    of_grid = grids.setdefault(row["grid"], {})
    of_grid[row["source"], row["target"]] = row["win_rate"]
  return grids
