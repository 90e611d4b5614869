"""How much of each language to draw: rates, caps and shares, as arithmetic.

Amounts are in any one unit (tokens, documents, characters); the caller says
which.
"""

import math
from collections.abc import Mapping


def temperature_rates(
  num: Mapping[str, float], *, temperature: float
) -> dict[str, float]:
  """Sampling rates p proportional to n^(1/T).

  Args:
    num: language -> amount of data n in any one unit, each > 0.
    temperature: T > 0; 1 is proportional, infinity uniform. The exponent that
      papers call alpha is 1/T.

  Returns:
    language -> rate; the rates sum to 1.

  Raises:
    ValueError: if there is no language, one has no data (drop it or fix its
      counts), or T is not positive.

  Source: Xue et al. 2021 (mT5), section 3.1, alpha = 0.3 or T = 10/3.
  """
  _check_amounts(num)
  if not temperature > 0:
    raise ValueError(f"temperature {temperature} must be above 0")
  largest = max(num.values())
  weight = {c: (n / largest) ** (1 / temperature) for c, n in num.items()}
  total = sum(weight.values())
  return {code: w / total for code, w in weight.items()}


def capped_amounts(
  rates: Mapping[str, float], capacity: Mapping[str, float], *, budget: float
) -> dict[str, float]:
  """Divides a budget by rates, none above its capacity.

  What a language cannot take goes to those with room, in proportion to their
  rates. Equal rates give UniMax.

  Args:
    rates: language -> rate > 0.
    capacity: language -> largest amount, > 0: for a cap of N epochs, N times
      the data; infinity for none.
    budget: amount to draw in all, > 0.

  Returns:
    language -> amount. They sum to the budget, or to all capacities if that is
    less: the caller reports the shortfall, since scaling up would break caps.

  Raises:
    ValueError: if a rate, a capacity or the budget is not positive.

  Source: Chung et al. 2023 (UniMax), Algorithm 1, for equal rates.
  """
  _check_amounts(rates)
  _check_amounts(capacity)
  if not budget > 0:
    raise ValueError(f"a budget of {budget} must be above 0")
  # With the language that is full first in front, one pass fills them all.
  order = sorted(rates, key=lambda code: capacity[code] / rates[code])
  amounts, left, weight = {}, budget, math.fsum(rates.values())
  for code in order:
    amounts[code] = min(capacity[code], left * rates[code] / weight)
    left = max(0.0, left - amounts[code])
    weight -= rates[code]
  return {code: amounts[code] for code in rates}


def unimax_amounts(
  num: Mapping[str, float], *, budget: float, max_epochs: float
) -> dict[str, float]:
  """Spreads a budget as evenly as `max_epochs` repeats of each language allow.

  Args:
    num: language -> amount of data, each > 0.
    budget: amount to draw in all, in the same unit.
    max_epochs: largest number of times a language is repeated, > 0.

  Returns:
    language -> amount; they sum to less than the budget if the data does not
    suffice.

  Raises:
    ValueError: if a language is empty; drop it or fix its counts.

  Source: Chung et al. 2023 (UniMax), Algorithm 1.
  """
  _check_amounts(num)
  capacity = {code: max_epochs * n for code, n in num.items()}
  return capped_amounts(dict.fromkeys(num, 1.0), capacity, budget=budget)


def nested_rates(
  shares: Mapping[str, float],
  num: Mapping[str, Mapping[str, float]],
  *,
  rule: str | float,
) -> dict[tuple[str, str], float]:
  """Rates over sources first, then over the languages of each source.

  Args:
    shares: source -> share of all; they sum to 1.
    num: source -> language -> amount of data; the same sources.
    rule: how a source is divided: "uniform" over its languages, "proportional"
      to their data, or by the temperature T of `temperature_rates`.

  Returns:
    (source, language) -> rate; the rates sum to 1.

  Raises:
    ValueError: if sources are missing or shares do not sum to 1. Shares of
      what is not there are not given to others silently: leave a source out
      and write the shares that you mean.
  """
  if shares.keys() != num.keys():
    raise ValueError(
      f"shares are of {sorted(shares)}, data of {sorted(num)}; they must be the "
      "same sources"
    )
  check_shares(shares)
  temperature = {"uniform": math.inf, "proportional": 1.0}.get(rule, rule)
  if isinstance(temperature, str):
    raise ValueError(
      f"rule {rule!r}: give 'uniform', 'proportional' or a temperature"
    )
  return {
    (source, code): share * rate
    for source, share in shares.items()
    for code, rate in temperature_rates(
      num[source], temperature=temperature
    ).items()
  }


def check_shares(shares: Mapping[str, float]) -> None:
  """Raises ValueError unless shares are positive and sum to 1."""
  _check_amounts(shares)
  total = math.fsum(shares.values())
  if abs(total - 1) > 1e-6:
    raise ValueError(
      f"shares {dict(shares)} sum to {total}, not to 1; divide them by it if "
      "they are meant as weights"
    )


def _check_amounts(num: Mapping[str, float]) -> None:
  if not num:
    raise ValueError("no language to sample from; the counts are empty")
  empty = {code: n for code, n in sorted(num.items()) if not n > 0}
  if empty:
    raise ValueError(f"not above 0: {empty}; leave them out or correct them")
