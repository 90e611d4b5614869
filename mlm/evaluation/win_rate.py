"""Win, loss and tie rates of one policy over another, with intervals.

Both policies answer the same prompts with several samples each; every pair of
samples is one comparison. Intervals are percentile bootstraps over clusters
(all prompts made from one source document), so parallel or repeated prompts do
not pass for independent evidence. Languages are averaged after, not before.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def outcomes(
  scores: np.ndarray, opponent_scores: np.ndarray, *, margin: float
) -> np.ndarray:
  """Shares of wins, losses and ties for each prompt.

  Args:
    scores: float [B, M] judge scores of the policy's samples.
    opponent_scores: float [B, M'] of the opponent's.
    margin: differences up to this count as ties.

  Returns:
    float [B, 3]; each row sums to 1.
  """
  difference = scores[:, :, None] - opponent_scores[:, None, :]
  wins = (difference > margin).mean(axis=(1, 2))
  losses = (difference < -margin).mean(axis=(1, 2))
  return np.stack([wins, losses, 1 - wins - losses], axis=1)


def _cluster_means(
  values: np.ndarray, clusters: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Sums of values and number of rows for each cluster."""
  names, index = np.unique(np.asarray(clusters), return_inverse=True)
  sums = np.bincount(index, weights=values, minlength=len(names))
  return sums, np.bincount(index, minlength=len(names))


def _resampled_means(
  values: np.ndarray,
  clusters: Sequence[str],
  rng: np.random.Generator,
  num_resamples: int,
) -> np.ndarray:
  """Means of `num_resamples` bootstrap samples of whole clusters."""
  sums, sizes = _cluster_means(values, clusters)
  drawn = rng.integers(0, len(sums), (num_resamples, len(sums)))
  return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)


def summarize(
  by_language: Mapping[str, np.ndarray],
  clusters: Mapping[str, Sequence[str]],
  *,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> dict:
  """Rates by language and their macro average, in percent.

  Args:
    by_language: language -> [B, 3] of `outcomes`.
    clusters: language -> B cluster names.
    seed: of the bootstrap.
    num_resamples: of the bootstrap.
    confidence: of the interval, such as 0.95.

  Returns:
    {"overall": row, "by_language": {language: row}}; a row has win, loss, tie,
    delta = win - loss with its interval low, high, and prompts.

  Raises:
    ValueError: if there is no language to compare.
  """
  if not by_language:
    raise ValueError("no comparisons: no language has prompts in common")
  rng = np.random.default_rng(seed)
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  rows, resampled = {}, []
  for language, shares in by_language.items():
    deltas = 100 * (shares[:, 0] - shares[:, 1])
    resamples = _resampled_means(deltas, clusters[language], rng, num_resamples)
    resampled.append(resamples)
    low, high = np.quantile(resamples, tails)
    rows[language] = _row(100 * shares.mean(axis=0), low, high, len(shares))
  macro = np.mean([s.mean(axis=0) for s in by_language.values()], axis=0)
  low, high = np.quantile(np.mean(resampled, axis=0), tails)
  prompts = sum(len(s) for s in by_language.values())
  return {
    "overall": _row(100 * macro, low, high, prompts),
    "by_language": rows,
  }


def _row(rates: np.ndarray, low: float, high: float, prompts: int) -> dict:
  win, loss, tie = (float(x) for x in rates)
  return {
    "win": win,
    "loss": loss,
    "tie": tie,
    "delta": win - loss,
    "low": float(low),
    "high": float(high),
    "prompts": prompts,
  }


def mean_and_standard_error(
  values: np.ndarray, clusters: Sequence[str]
) -> tuple[float, float]:
  """Mean, and its standard error with clustered observations.

  With c clusters of sums s_j and sizes n_j, N = sum n_j and mean m:
  variance = c / (c - 1) * sum_j (s_j - n_j m)^2 / N^2. The standard error of a
  single cluster is not known: nan.
  """
  sums, sizes = _cluster_means(values, clusters)
  total, mean = sizes.sum(), sums.sum() / sizes.sum()
  if len(sums) < 2:
    return float(mean), float("nan")
  residual = ((sums - sizes * mean) ** 2).sum() / total**2
  return float(mean), float(np.sqrt(residual * len(sums) / (len(sums) - 1)))
