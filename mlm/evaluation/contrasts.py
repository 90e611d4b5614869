"""Differences between two systems over several training seeds, and which stand.

A training run is one draw: another seed gives another policy. So the interval
is a bootstrap on two levels, of seeds and then of prompts within each, both
systems on the same ones. With few seeds the resampled spread is too small by a
factor of about (S - 1) / S, so a t interval over the seeds' means stands beside
it, as does the bootstrap of prompts alone, which says what these very policies
do.

Letters: S seeds, B prompts (clusters: one meaning in all languages).
"""

from collections.abc import Mapping

import numpy as np
from scipy import stats


def resampled_means(
  values: np.ndarray,
  *,
  over_seeds: bool,
  num_resamples: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Bootstrapped means, float64 [num_resamples].

  Args:
    values: float [S, B], paired differences.
    over_seeds: whether seeds are drawn too, or each is taken once.
    num_resamples: of the bootstrap.
    rng: of the bootstrap.
  """
  num_seeds, num_prompts = values.shape
  total = np.zeros(num_resamples)
  for slot in range(num_seeds):
    drawn = np.full(num_resamples, slot)
    if over_seeds:
      drawn = rng.integers(0, num_seeds, num_resamples)
    counts = rng.multinomial(
      num_prompts, np.full(num_prompts, 1 / num_prompts), num_resamples
    )
    total += (counts * values[drawn]).sum(axis=1) / num_prompts
  return total / num_seeds


def contrast(
  values: np.ndarray,
  *,
  confidence: float,
  num_resamples: int,
  seed: int,
) -> dict:
  """Mean paired difference with its intervals and p values.

  Args:
    values: float [S, B], one system minus the other for each prompt.
    confidence: of the intervals, such as 0.95.
    num_resamples: of the bootstraps.
    seed: of the bootstraps.

  Returns:
    {"difference", "low", "high", "p": of the bootstrap of seeds and prompts;
    "low_prompts", "high_prompts": of prompts alone; "low_t", "high_t", "p_t":
    of Student's t over the seeds' means, NaN for one seed; "by_seed": means}.
    p is two-sided: twice the smaller share of resamples on one side of 0, the
    observed one counted with them.
  """
  rng = np.random.default_rng(seed)
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  by_seed = values.mean(axis=1)
  both, prompts = (
    resampled_means(
      values, over_seeds=over_seeds, num_resamples=num_resamples, rng=rng
    )
    for over_seeds in (True, False)
  )
  low, high = np.quantile(both, tails)
  low_prompts, high_prompts = np.quantile(prompts, tails)
  side = min((both <= 0).sum(), (both >= 0).sum())
  low_t = high_t = p_t = float("nan")
  if len(by_seed) > 1:
    tested = stats.ttest_1samp(by_seed, 0.0)
    low_t, high_t = tested.confidence_interval(confidence)
    p_t = tested.pvalue
  found = {
    "difference": by_seed.mean(),
    "low": low,
    "high": high,
    "p": min(1.0, 2 * (1 + side) / (num_resamples + 1)),
    "low_prompts": low_prompts,
    "high_prompts": high_prompts,
    "low_t": low_t,
    "high_t": high_t,
    "p_t": p_t,
  }
  return {
    **{name: float(value) for name, value in found.items()},
    "by_seed": by_seed.tolist(),
  }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """P values adjusted for a family of tests, family-wise.

  The i-th smallest of m is multiplied by m - i + 1; none may be below one that
  was smaller before, or above 1.

  Args:
    p_values: name -> p.

  Returns:
    name -> adjusted p, in the order given.

  Source: Holm 1979.
  """
  ordered = sorted(p_values, key=p_values.get)
  largest, adjusted = 0.0, {}
  for rank, name in enumerate(ordered):
    largest = max(largest, (len(ordered) - rank) * p_values[name])
    adjusted[name] = min(1.0, largest)
  return {name: adjusted[name] for name in p_values}
