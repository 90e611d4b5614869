"""The distribution of a number over the pages of a language."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Distribution:
  """Values of a measure, ascending, and how many pages have each."""

  values: np.ndarray
  counts: np.ndarray

  @classmethod
  def of(cls, counts: Mapping[float, int]) -> "Distribution":
    """Of {value: pages}.

    Raises:
      ValueError: if there are no pages.
    """
    if not counts:
      raise ValueError("no pages to measure")
    values = sorted(counts)
    return cls(np.array(values, float), np.array([counts[v] for v in values]))

  @property
  def mean(self) -> float:
    return float(np.average(self.values, weights=self.counts))

  @property
  def standard_deviation(self) -> float:
    squares = (self.values - self.mean) ** 2
    return float(np.sqrt(np.average(squares, weights=self.counts)))

  def quantile(self, share: float) -> float:
    """The smallest value that at least `share` of the pages do not exceed."""
    cumulative = np.cumsum(self.counts)
    index = np.searchsorted(cumulative, share * cumulative[-1])
    return float(self.values[min(index, len(self.values) - 1)])

  def share_below(self, value: float) -> float:
    return float(self.counts[self.values < value].sum() / self.counts.sum())
