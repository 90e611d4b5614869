"""Rewards of one language for samples in another, in a testbed's grid.

A cell's win rate is that of what the source's reward model chose over samples
of the same fine-tuned model, by the hidden score, ties counting half, in
percent: as in the published tables.

Letters: S seeds, T targets, B prompts, n samples to choose from.
"""

from collections.abc import Sequence

import numpy as np

from mlm.alignment.testbed import experiment
from mlm.evaluation import (
  comparison_figures,
  contrasts,
  published_transfer,
  testbed,
  transfer,
  win_rate,
)

_PREFIX = "transfer/"
_GOLD = "transfer/gold"


def languages(seeds: Sequence[testbed.Seed]) -> list[str]:
  """Codes of the grid in order; none if it was not made."""
  names = [name for name in seeds[0].scores if name.startswith(_PREFIX)]
  return [name.removeprefix(_PREFIX) for name in names if name != _GOLD]


def num_samples(seeds: Sequence[testbed.Seed]) -> int:
  """Of each prompt, that rewards chose among."""
  return seeds[0].scores[_PREFIX + languages(seeds)[0]].shape[2]


def win_rates(seed: testbed.Seed, source: str, num_samples: int) -> np.ndarray:
  """Win rate of what a source chose among the first n samples, float [T, B]."""
  rewards, gold = seed.scores[_PREFIX + source], seed.scores[_GOLD]
  found = []
  for of_rewards, of_gold in zip(rewards, gold):
    choices, opponents = np.split(of_gold, [rewards.shape[2]], axis=1)
    places = transfer.best_of_n(of_rewards[:, :num_samples])
    chosen = np.take_along_axis(choices, places[:, None], axis=1)
    won, _, tied = win_rate.outcomes(chosen, opponents, margin=testbed.MARGIN).T
    found.append(100 * won + 50 * tied)
  return np.stack(found)


def cell_rows(
  seeds: Sequence[testbed.Seed],
  num_samples: int,
  *,
  confidence: float,
  num_resamples: int,
) -> list[dict]:
  """Win rate of every source and target, with intervals as `contrasts`.

  "accuracy" is the share of clear pairs of the target's samples that the
  source's reward model orders as the hidden score does, mean over seeds.
  """
  codes = languages(seeds)
  rows = []
  for source in codes:
    rates = np.stack([win_rates(seed, source, num_samples) for seed in seeds])
    for i, target in enumerate(codes):
      accuracies = []
      for seed in seeds:
        rewards = seed.scores[_PREFIX + source][i]
        gold = seed.scores[_GOLD][i, :, : rewards.shape[1]]
        accuracies.append(experiment.clean_accuracy(rewards, gold))
      rows.append(
        {
          "samples": num_samples,
          "source": source,
          "target": target,
          **_rate(rates[:, i], confidence, num_resamples),
          "accuracy": float(np.mean([a for a in accuracies if a is not None])),
        }
      )
  return rows


def mean_rows(
  seeds: Sequence[testbed.Seed],
  num_samples: int,
  *,
  confidence: float,
  num_resamples: int,
) -> list[dict]:
  """Means over the cells on the diagonal, off it, and their difference."""
  codes = languages(seeds)
  rates = np.stack(
    [
      [win_rates(seed, source, num_samples) for source in codes]
      for seed in seeds
    ]
  )  # [S, sources, T, B]
  own = np.eye(len(codes), dtype=bool)
  diagonal, others = rates[:, own].mean(axis=1), rates[:, ~own].mean(axis=1)
  settings = {"confidence": confidence, "num_resamples": num_resamples}
  told = {"samples": num_samples, "seeds": len(seeds)}
  difference = contrasts.contrast(others - diagonal, seed=0, **settings)
  return [
    {**told, "cells": "diagonal", **_rate(diagonal, *settings.values())},
    {**told, "cells": "off-diagonal", **_rate(others, *settings.values())},
    {
      **told,
      "cells": "off-diagonal − diagonal",
      "win_rate": difference.pop("difference"),
      **difference,
    },
  ]


def _rate(rates, confidence, num_resamples) -> dict:
  """Of float [S, B]; p values are of the difference from 50."""
  found = contrasts.contrast(
    rates - 50, confidence=confidence, num_resamples=num_resamples, seed=0
  )
  found["by_seed"] = [50 + value for value in found["by_seed"]]
  return {
    "win_rate": 50 + found.pop("difference"),
    **{
      name: 50 + value if name.startswith(("low", "high")) else value
      for name, value in found.items()
    },
  }


def figure(rows: Sequence[dict], title: str) -> str:
  """The matrix of `cell_rows` beside the published ones, as SVG."""
  ours = {(row["source"], row["target"]): row["win_rate"] for row in rows}
  return comparison_figures.matrices(
    {
      f"here: best of {rows[0]['samples']}": ours,
      "Wu et al. 2024, Table 6: transfer": published_transfer.TABLE_6,
      "Table 17: translate-train": published_transfer.TABLE_17,
    },
    title,
  )
