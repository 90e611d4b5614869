"""Character trigram models with interpolated Kneser-Ney smoothing.

Small models of many language-scripts, compared with one another by perplexity
(Glot500-c, ImaniGooghari et al. 2023, section 3.2; order 3 and Kneser-Ney are
unconfirmed there). Formulas: Chen & Goodman 1999, section 2.7, with one
discount, and at the bottom the uniform distribution over the characters seen
and one unseen.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

DISCOUNT = 0.75
_BITS = np.uint64(21)  # of a code point
_ONE, _TWO, _THREE = (np.uint64((1 << (21 * n)) - 1) for n in (1, 2, 3))
_BOUNDARY = 0x10FFFF  # no character: stands before and after a text


@dataclasses.dataclass(frozen=True)
class Ngrams:
  """Distinct n-grams of some text and their counts.

  Attributes:
    keys: uint64 [n], ascending; an n-gram is n code points of 21 bits, the last
      lowest.
    counts: int64 [n].
  """

  keys: np.ndarray
  counts: np.ndarray


def count_trigrams(texts: Iterable[str]) -> Ngrams:
  """Trigrams of texts between boundaries: length + 1 events; an empty one 0."""
  edge = chr(_BOUNDARY) * 2
  padded = edge + "".join(text + edge for text in texts)
  codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), "<u4")
  codes = codes.astype(np.uint64)
  keys = (codes[:-2] << (_BITS + _BITS)) | (codes[1:-1] << _BITS) | codes[2:]
  # What follows the end of a text is no event.
  inside = (codes[1:-1] != _BOUNDARY) | (codes[2:] != _BOUNDARY)
  return Ngrams(*np.unique(keys[inside], return_counts=True))


@dataclasses.dataclass(frozen=True)
class _Order:
  """One order of a model: n-grams, and their contexts' totals and types."""

  ngrams: Ngrams
  contexts: np.ndarray  # uint64, ascending
  totals: np.ndarray
  types: np.ndarray

  @classmethod
  def of(cls, ngrams: Ngrams) -> "_Order":
    contexts, first, types = np.unique(
      ngrams.keys >> _BITS, return_index=True, return_counts=True
    )
    totals = np.add.reduceat(ngrams.counts, first)
    return cls(ngrams, contexts, totals, types)

  def probability(self, keys: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Of each n-gram's last character, given that of the order below."""
    context = _find(self.contexts, keys >> _BITS)
    total = np.where(context < 0, 1, self.totals[context])
    counts = self.ngrams.counts[place := _find(self.ngrams.keys, keys)]
    own = np.where(place < 0, 0, counts - DISCOUNT)
    backoff = np.where(context < 0, 1.0, DISCOUNT * self.types[context] / total)
    return own / total + backoff * lower


@dataclasses.dataclass(frozen=True)
class Model:
  """A trigram model; `train` makes one."""

  orders: tuple[_Order, _Order, _Order]  # of one, two and three characters

  def log2_probabilities(self, keys: np.ndarray) -> np.ndarray:
    """log2 p(last | first two) of trigram keys, float64 [n]."""
    types = len(self.orders[0].ngrams.keys)
    lower = np.full(len(keys), 1 / (types + 1))
    for order, mask in zip(self.orders, (_ONE, _TWO, _THREE)):
      lower = order.probability(keys & mask, lower)
    return np.log2(lower)

  def perplexity(self, trigrams: Ngrams) -> float:
    """2 to the mean negative log2 probability of the characters and ends.

    Raises:
      ValueError: if there are no trigrams.
    """
    if not len(trigrams.keys):
      raise ValueError("no text to measure the perplexity on")
    logs = self.log2_probabilities(trigrams.keys)
    return float(2 ** -np.average(logs, weights=trigrams.counts))


def train(trigrams: Ngrams) -> Model:
  """A model of counted text.

  Raises:
    ValueError: if there are no trigrams.
  """
  if not len(trigrams.keys):
    raise ValueError("no text to train a model on")
  orders = [trigrams]
  for mask in (_TWO, _ONE):
    # In how many contexts an n-gram stands, not how often.
    shorter = np.unique(orders[-1].keys & mask, return_counts=True)
    orders.append(Ngrams(*shorter))
  return Model(tuple(_Order.of(ngrams) for ngrams in reversed(orders)))


def divergence(
  a: Model, trigrams_a: Ngrams, b: Model, trigrams_b: Ngrams
) -> float:
  """Perplexity divergence: the larger of the two cross-perplexities."""
  return max(a.perplexity(trigrams_b), b.perplexity(trigrams_a))


def _find(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """Position of each key, -1 where there is none."""
  place = np.searchsorted(sorted_keys, keys)
  place = np.minimum(place, len(sorted_keys) - 1)
  return np.where(sorted_keys[place] == keys, place, -1)
