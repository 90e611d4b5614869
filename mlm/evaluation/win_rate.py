"""Win, loss and tie rates of one policy over another, with intervals.

A row is a prompt in a language, with the shares of its comparisons that were
won, lost and tied. Rows of one source prompt, such as its translations into all
languages, are one cluster: they are no independent evidence, so the bootstrap
draws clusters, the same ones for every language. Languages are averaged after,
not before, and are not drawn: intervals are about these languages. Of fewer
than twenty clusters they can be much too narrow: of ten that are won with
probability 0.9, a third are all won.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csgraph, csr_array

from mlm.languages import groups


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


class Draws(NamedTuple):
  """Bootstrap samples of whole clusters.

  Attributes:
    index: int [N], cluster of each row.
    counts: int [R, C], how often each of C clusters was drawn, R times.
  """

  index: np.ndarray
  counts: np.ndarray


def draw_clusters(
  clusters: Sequence[str],
  columns: Sequence[str],
  *,
  seed: int,
  num_resamples: int,
) -> Draws:
  """Draws clusters with replacement, as many as there are.

  Columns, such as languages, that share clusters, directly or through others,
  are drawn together. Columns that share none have a draw each, so that a column
  keeps its number of clusters.

  Args:
    clusters: name of the cluster of each of N rows.
    columns: name of the column of each row.
    seed: of the draws.
    num_resamples: R.
  """
  names, index = np.unique(np.asarray(clusters), return_inverse=True)
  column_names, column = np.unique(np.asarray(columns), return_inverse=True)
  size = len(names) + len(column_names)
  edges = csr_array(
    (np.ones(len(index)), (index, len(names) + column)), shape=(size, size)
  )
  _, part = csgraph.connected_components(edges, directed=False)
  rng = np.random.default_rng(seed)
  counts = np.zeros((num_resamples, len(names)), np.int32)
  for number in np.unique(part[: len(names)]):
    members = np.flatnonzero(part[: len(names)] == number)
    uniform = np.full(len(members), 1 / len(members))
    counts[:, members] = rng.multinomial(len(members), uniform, num_resamples)
  return Draws(index, counts)


def resampled_means(
  values: np.ndarray, column: np.ndarray, num_columns: int, draws: Draws
) -> np.ndarray:
  """Means of each column in each bootstrap sample.

  Args:
    values: float [N].
    column: int [N], place of each row's column.
    num_columns: L.
    draws: of `draw_clusters`.

  Returns:
    float64 [R, L]; nan where none of a column's rows was drawn.
  """
  num_clusters = draws.counts.shape[1]
  place = draws.index * num_columns + column
  shape = (num_clusters, num_columns)
  size = num_clusters * num_columns
  sums = np.bincount(place, weights=values, minlength=size).reshape(shape)
  sizes = np.bincount(place, minlength=size).reshape(shape)
  totals, numbers = draws.counts @ sums, draws.counts @ sizes
  return np.divide(
    totals, numbers, out=np.full(totals.shape, np.nan), where=numbers > 0
  )


def interval(
  resamples: np.ndarray, *, confidence: float
) -> tuple[float, float]:
  """The percentiles that hold the middle `confidence` of resamples [R]."""
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  low, high = np.nanquantile(resamples, tails)
  return float(low), float(high)


def groupings(
  codes: Sequence[str], seen: Collection[str] | None
) -> dict[str, list[str]]:
  """Name -> languages of every group that is averaged over.

  Args:
    codes: of all languages.
    seen: languages that the policy's preferences were in; None if that is not
      the question.

  Raises:
    ValueError: if no language is seen.
  """
  found = {}
  if seen is not None:
    found = {
      "seen": [c for c in codes if c in seen],
      "unseen": [c for c in codes if c not in seen],
    }
    if not found["seen"]:
      raise ValueError(
        f"none of the languages compared ({', '.join(codes)}) is among the seen "
        f"ones ({', '.join(seen)}); correct them, or give None"
      )
  for grouping in groups.GROUPINGS:
    for name, members in groups.members(codes, grouping).items():
      found[f"{grouping.replace('_', ' ')} {name}"] = members
  return {name: members for name, members in found.items() if members}


def summarize(
  shares: np.ndarray,
  *,
  languages: Sequence[str],
  clusters: Sequence[str],
  seen: Collection[str] | None,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> dict:
  """Rates by language, then averages over languages, in percent.

  Args:
    shares: float [N, 3], wins, losses and ties of each row.
    languages: code of each row.
    clusters: name of each row's source prompt, the same in every language.
    seen: see `groupings`.
    seed: of the bootstrap.
    num_resamples: of the bootstrap.
    confidence: of the interval, such as 0.95.

  Returns:
    {"overall": row, "by_language": {language: row}, "groups": {name: row}}; a
    row has win, loss, tie, delta = win - loss with its interval low, high (None
    where all rows are of one cluster), prompts (rows) and clusters.

  Raises:
    ValueError: if there is nothing to compare.
  """
  if not len(shares):
    raise ValueError("no comparisons: no language has prompts in common")
  codes, column = np.unique(np.asarray(languages), return_inverse=True)
  codes = codes.tolist()
  draws = draw_clusters(
    clusters, languages, seed=seed, num_resamples=num_resamples
  )
  deltas = 100 * (shares[:, 0] - shares[:, 1])
  resampled = resampled_means(deltas, column, len(codes), draws)
  means = np.array(
    [100 * shares[column == i].mean(axis=0) for i in range(len(codes))]
  )

  def row(members):
    chosen = [codes.index(code) for code in members]
    of_members = np.isin(column, chosen)
    num_clusters = len(np.unique(draws.index[of_members]))
    low, high = None, None
    if num_clusters > 1:
      # A language of which nothing was drawn is left out of that mean.
      averages = means_of_known(resampled[:, chosen])
      low, high = interval(averages, confidence=confidence)
    win, loss, tie = means[chosen].mean(axis=0).tolist()
    return {
      "win": win,
      "loss": loss,
      "tie": tie,
      "delta": win - loss,
      "low": low,
      "high": high,
      "prompts": int(of_members.sum()),
      "clusters": num_clusters,
    }

  return {
    "overall": row(codes),
    "by_language": {code: row([code]) for code in codes},
    "groups": {
      name: row(members) for name, members in groupings(codes, seen).items()
    },
  }


def means_of_known(values: np.ndarray) -> np.ndarray:
  """Means over the last axis of what is not nan; nan where nothing is left."""
  known = ~np.isnan(values)
  numbers = known.sum(axis=-1)
  totals = np.where(known, values, 0.0).sum(axis=-1)
  return np.divide(
    totals, numbers, out=np.full(totals.shape, np.nan), where=numbers > 0
  )


def mean_and_standard_error(
  values: np.ndarray, clusters: Sequence[str]
) -> tuple[float, float]:
  """Mean, and its standard error with clustered observations.

  With c clusters of sums s_j and sizes n_j, N = sum n_j and mean m:
  variance = c / (c - 1) * sum_j (s_j - n_j m)^2 / N^2. The standard error of a
  single cluster is not known: nan.
  """
  names, index = np.unique(np.asarray(clusters), return_inverse=True)
  sums = np.bincount(index, weights=values, minlength=len(names))
  sizes = np.bincount(index, minlength=len(names))
  total, mean = sizes.sum(), sums.sum() / sizes.sum()
  if len(sums) < 2:
    return float(mean), float("nan")
  residual = ((sums - sizes * mean) ** 2).sum() / total**2
  return float(mean), float(np.sqrt(residual * len(sums) / (len(sums) - 1)))
