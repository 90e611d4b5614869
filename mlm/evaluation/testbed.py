"""What the seeds of a testbed say together: rates chosen, contrasts, frontier.

Reads what the job align_testbed leaves and never averages before it has a row
for every language. Learning rates are chosen on the validation split, in each
seed and mixture by the mean over all languages, and judged on the test split.

Letters: S seeds, L languages, B prompts of meanings, K samples.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mlm.evaluation import contrasts, win_rate

MARGIN = 1e-4  # hidden scores are sums of float32 quarters and shares
METHODS = ("dpo", "rloo")
GROUPS = ("all", "unseen", "English")


class Seed(NamedTuple):
  """One seed's results; see `mlm.alignment.testbed.experiment.run_seed`."""

  summary: dict
  scores: Mapping[str, np.ndarray]


def read_seeds(directory: str) -> list[Seed]:
  """All seeds that are done, in order.

  Raises:
    FileNotFoundError: if there is none.
  """
  seeds = []
  for name in sorted(os.listdir(directory)):
    if name.startswith("seed_") and name.endswith(".json"):
      path = os.path.join(directory, name)
      with open(path, encoding="utf-8") as f:
        summary = json.load(f)
      with np.load(path.removesuffix(".json") + ".npz") as scores:
        seeds.append(Seed(summary, dict(scores)))
  if not seeds:
    raise FileNotFoundError(
      f"no seed_<n>.json in {directory}; run align_testbed first"
    )
  return seeds


def outcomes(seed: Seed, split: str, name: str) -> np.ndarray:
  """Win, loss and tie shares against the fine-tuned model, float [L, B, 3]."""
  opponent = seed.scores[f"{split}/opponent"]
  return np.stack(
    [
      win_rate.outcomes(of_policy, of_opponent, margin=MARGIN)
      for of_policy, of_opponent in zip(
        seed.scores[f"{split}/{name}"], opponent
      )
    ]
  )


def deltas(seed: Seed, split: str, name: str) -> np.ndarray:
  """Win - loss in points, float [L, B]."""
  shares = outcomes(seed, split, name)
  return 100 * (shares[..., 0] - shares[..., 1])


def group_indices(
  languages: Sequence[str], seen: Sequence[str]
) -> dict[str, list[int]]:
  """Positions of the languages of each of `GROUPS` that is not empty."""
  found = {
    "all": list(range(len(languages))),
    "unseen": [i for i, code in enumerate(languages) if code not in seen],
    "English": [0],
  }
  return {name: indices for name, indices in found.items() if indices}


def chosen(seed: Seed, mixture: str, method: str) -> str | None:
  """The trial whose rate is best on the validation split, at the main beta.

  None if all trials of the method were refused.
  """
  names = [
    name
    for name, row in seed.summary["mixtures"][mixture]["trials"].items()
    if row["method"] == method
    and row["varies"] == "rate"
    and "refused" not in row
  ]
  return max(
    names,
    key=lambda name: deltas(seed, "validation", name).mean(),
    default=None,
  )


def trial_rows(seeds: Sequence[Seed]) -> list[dict]:
  """Every trial of every seed on the test split, by language and then group."""
  rows = []
  for seed in seeds:
    languages = seed.summary["languages"]
    rows += _rows_of(seed, "SFT again", "control", languages, {}, {})
    for mixture, of_mixture in seed.summary["mixtures"].items():
      best = [chosen(seed, mixture, method) for method in METHODS]
      for name, trial in of_mixture["trials"].items():
        told = {
          "method": trial["method"],
          "rate": trial["rate"],
          "beta": trial["beta"],
          "chosen": int(name in best),
        }
        if "refused" in trial:
          continue
        rows += _rows_of(
          seed, mixture, name, of_mixture["languages"], told, trial
        )
  return rows


def _rows_of(seed, mixture, name, seen, told, trial):
  languages = seed.summary["languages"]
  shares = outcomes(seed, "test", name)
  gold = seed.scores[f"test/{name}"]
  validation = deltas(seed, "validation", name)
  groups = {code: [i] for i, code in enumerate(languages)}
  groups |= group_indices(languages, seen)
  for group, indices in groups.items():
    win, loss, tie = 100 * shares[indices].mean(axis=(0, 1))
    by_prompt = 100 * (shares[indices, :, 0] - shares[indices, :, 1]).mean(0)
    yield {
      "seed": seed.summary["seed"],
      "mixture": mixture,
      **{
        key: told.get(key, "") for key in ("method", "rate", "beta", "chosen")
      },
      "language": group,
      "seen": int(all(languages[i] in seen for i in indices)),
      "prompts": gold.shape[1] * len(indices),
      "win": win,
      "loss": loss,
      "tie": tie,
      "delta": win - loss,
      "standard_error": by_prompt.std(ddof=1) / math.sqrt(len(by_prompt)),
      "validation_delta": validation[indices].mean(),
      "gold": gold[indices].mean(),
      "kl": _mean_of(trial.get("kl"), languages, indices),
      "learned_reward": _mean_of(trial.get("reward"), languages, indices),
    }


def _mean_of(by_language, languages, indices):
  if by_language is None:
    return ""
  return float(np.mean([by_language[languages[i]] for i in indices]))


def contrast_rows(
  seeds: Sequence[Seed],
  *,
  confidence: float,
  num_resamples: int,
) -> list[dict]:
  """RLOO - DPO in each mixture, multilingual - English-only for each method.

  The latter if the first mixture is English alone. On all languages, on those
  unseen by both sides, and on English. Only seeds in which both sides ran
  count; p values are Holm's over the whole family.
  """
  mixtures = list(seeds[0].summary["mixtures"])
  sides = {
    f"RLOO - DPO, {mixture}": ((mixture, "rloo"), (mixture, "dpo"))
    for mixture in mixtures
  }
  summary = seeds[0].summary
  first = summary["mixtures"][mixtures[0]]["languages"]
  if first == summary["languages"][:1]:
    for other in mixtures[1:]:
      for method in METHODS:
        name = f"{other} - {mixtures[0]}, {method.upper()}"
        sides[name] = ((other, method), (mixtures[0], method))
  return _family(
    seeds, sides, confidence=confidence, num_resamples=num_resamples
  )


def against_sft_rows(
  seeds: Sequence[Seed],
  *,
  confidence: float,
  num_resamples: int,
) -> list[dict]:
  """Each method's win - loss against the fine-tuned model, as `contrast_rows`."""
  sides = {
    f"{method.upper()} - SFT, {mixture}": ((mixture, method),)
    for mixture in seeds[0].summary["mixtures"]
    for method in METHODS
  }
  return _family(
    seeds, sides, confidence=confidence, num_resamples=num_resamples
  )


def _family(seeds, sides, *, confidence, num_resamples):
  rows = {}
  for name, pair in sides.items():
    values = _differences(seeds, pair)
    for group, of_seeds in values.items():
      rows[f"{name}, {group}"] = {
        "contrast": name,
        "languages": group,
        "seeds": len(of_seeds),
        **contrasts.contrast(
          np.stack(of_seeds),
          confidence=confidence,
          num_resamples=num_resamples,
          seed=0,
        ),
      }
  for p in ("p", "p_t"):
    known = {k: row[p] for k, row in rows.items() if not math.isnan(row[p])}
    for key, adjusted in contrasts.holm(known).items():
      rows[key][f"{p}_holm"] = adjusted
  return list(rows.values())


def _differences(seeds, pair):
  """Group -> for each seed, one side minus the other, if any, by prompt."""
  values: dict[str, list[np.ndarray]] = {}
  for seed in seeds:
    names = [chosen(seed, *side) for side in pair]
    if None in names:
      continue
    first, *second = (deltas(seed, "test", name) for name in names)
    seen = {
      code
      for mixture, _ in pair
      for code in seed.summary["mixtures"][mixture]["languages"]
    }
    groups = group_indices(seed.summary["languages"], seen)
    for group, indices in groups.items():
      difference = (first - sum(second))[indices].mean(axis=0)
      values.setdefault(group, []).append(difference)
  return values


def reward_model_rows(seeds: Sequence[Seed]) -> list[dict]:
  """Accuracy of each reward model by language, beside what came of it."""
  rows = []
  for seed in seeds:
    languages = seed.summary["languages"]
    for mixture, of_mixture in seed.summary["mixtures"].items():
      outcome = {}
      for method in METHODS:
        name = chosen(seed, mixture, method)
        if name is not None:
          outcome[method] = deltas(seed, "test", name).mean(axis=1)
      for i, code in enumerate(languages):
        held_out = of_mixture["calibration"]["by_language"][code]
        rows.append(
          {
            "seed": seed.summary["seed"],
            "mixture": mixture,
            "language": code,
            "seen": int(code in of_mixture["languages"]),
            "pairs": held_out["pairs"],
            "accuracy": held_out["accuracy"],
            "low": held_out["low"],
            "high": held_out["high"],
            "length_accuracy": held_out["length_accuracy"],
            "tokens_accuracy": held_out["tokens_accuracy"],
            "clean_accuracy": of_mixture["clean_accuracy"][code],
            "gate": "chance" if held_out["low"] <= 0.5 else "above",
            **{
              f"delta_{method}": outcome[method][i] if method in outcome else ""
              for method in METHODS
            },
          }
        )
  return rows


def rank_correlation(rows: Sequence[Mapping], method: str) -> tuple[float, int]:
  """Spearman's rho of clean accuracy and outcome over rows, and their number."""
  pairs = [
    (row["clean_accuracy"], row[f"delta_{method}"])
    for row in rows
    if row["clean_accuracy"] is not None and row[f"delta_{method}"] != ""
  ]
  return float(stats.spearmanr(*zip(*pairs)).statistic), len(pairs)


def frontier_rows(seeds: Sequence[Seed]) -> list[dict]:
  """Every trial, and the fine-tuned model at a KL of 0 as both methods' first.

  Means over languages of the test split; KL in nats a response.
  """
  rows = []
  for seed in seeds:
    for mixture, of_mixture in seed.summary["mixtures"].items():
      told = {"seed": seed.summary["seed"], "mixture": mixture}
      first = of_mixture["best_of_n"]["macro"][0]  # of one sample
      for method in METHODS:
        rows.append(
          {
            **told,
            "method": method,
            "rate": 0.0,
            "beta": "",
            "kl": 0.0,
            "gold": float(seed.scores["test/opponent"].mean()),
            "learned_reward": first["proxy"],
            "delta": 0.0,
          }
        )
      for name, trial in of_mixture["trials"].items():
        if "refused" in trial:
          continue
        rows.append(
          {
            **told,
            "method": trial["method"],
            "rate": trial["rate"],
            "beta": trial["beta"],
            "kl": float(np.mean(list(trial["kl"].values()))),
            "gold": float(seed.scores[f"test/{name}"].mean()),
            "learned_reward": float(np.mean(list(trial["reward"].values()))),
            "delta": float(deltas(seed, "test", name).mean()),
          }
        )
  return rows


def best_of_n_rows(seeds: Sequence[Seed]) -> list[dict]:
  """Best-of-n curves, means over languages of the test split."""
  return [
    {"seed": seed.summary["seed"], "mixture": mixture, **row}
    for seed in seeds
    for mixture, of_mixture in seed.summary["mixtures"].items()
    for row in of_mixture["best_of_n"]["macro"]
  ]


def equal_kl_rows(
  rows: Sequence[Mapping], kls: Sequence[float], *, confidence: float
) -> list[dict]:
  """RLOO - DPO in hidden score where both are as far from the fine-tuned model.

  Each method's trials of a seed are joined by lines in the order of their KL.
  Nothing is said outside of what both trials span: a line from the fine-tuned
  model to the nearest trial would favour whichever trial is nearer. The curves
  bend, so it is a guide where trials lie far apart.

  Args:
    rows: of `frontier_rows`.
    kls: in nats.
    confidence: of Student's interval over seeds.
  """
  found = []
  for mixture in dict.fromkeys(row["mixture"] for row in rows):
    for kl in kls:
      values = _at_equal_kl(
        [row for row in rows if row["mixture"] == mixture], kl
      )
      if not values:
        continue
      low = high = float("nan")
      if len(values) > 1:
        tested = stats.ttest_1samp(values, 0.0)
        low, high = tested.confidence_interval(confidence)
      found.append(
        {
          "mixture": mixture,
          "kl": kl,
          "seeds": len(values),
          "rloo_minus_dpo": float(np.mean(values)),
          "low_t": float(low),
          "high_t": float(high),
          "by_seed": values,
        }
      )
  return found


def _at_equal_kl(rows, kl) -> list[float]:
  found = []
  for seed in sorted({row["seed"] for row in rows}):
    values = []
    for method in METHODS:
      points = sorted(
        (row["kl"], row["gold"])
        for row in rows
        if (row["seed"], row["method"]) == (seed, method) and row["kl"] > 0
      )
      if points and points[0][0] <= kl <= points[-1][0]:
        values.append(float(np.interp(kl, *zip(*points))))
    if len(values) == len(METHODS):
      found.append(values[1] - values[0])
  return found


def write_table(path: str, rows: Sequence[Mapping]) -> None:
  """Tab-separated, numbers to four significant digits; nothing for no rows."""
  if not rows:
    return

  def text(value):
    if isinstance(value, float | np.floating):
      return "" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, list):
      return " ".join(text(v) for v in value)
    return "" if value is None else str(value)

  with open(path, "w", encoding="utf-8") as f:
    f.write("\t".join(rows[0]) + "\n")
    for row in rows:
      f.write("\t".join(text(row.get(key, "")) for key in rows[0]) + "\n")
