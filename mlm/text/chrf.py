"""How alike two texts are, by the character n-grams that they share."""

import collections

_MAX_ORDER = 6
_BETA = 2.0  # recall counts for beta times as much as precision


def chrf(text: str, reference: str) -> float:
  """Character n-gram F-score of a text, in [0, 1].

  Precision and recall of the n-grams of 1 to 6 characters, white space left
  out, are averaged over the orders that both texts have.

  Args:
    text: what is judged.
    reference: what it should be.

  Source: Popović 2015, chrF2; sentence scores as in sacrebleu.
  """
  text, reference = ("".join(of.split()) for of in (text, reference))
  orders = range(1, min(_MAX_ORDER, len(text), len(reference)) + 1)
  if not orders:
    return 0.0
  precision = recall = 0.0
  for order in orders:
    said, wanted = (_ngrams(of, order) for of in (text, reference))
    shared = (said & wanted).total()
    precision += shared / said.total() / len(orders)
    recall += shared / wanted.total() / len(orders)
  weighted = _BETA**2 * precision + recall
  return (1 + _BETA**2) * precision * recall / weighted if weighted else 0.0


def _ngrams(text: str, order: int) -> collections.Counter:
  return collections.Counter(
    text[i : i + order] for i in range(len(text) - order + 1)
  )
