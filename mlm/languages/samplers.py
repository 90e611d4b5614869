"""How an amount of text is divided over languages: the methods, as functions.

Each builds a Sampler, which a plan for training or for a tokenizer calls with
the counts of its corpus.
"""

import functools
import math
from collections.abc import Callable, Mapping

from mlm.languages import rates as rates_lib

UNITS = ("tokens", "documents", "characters", "bytes")

# (code -> {unit: amount in the train split}, unit of the budget, budget, code ->
# drawn before) -> (code -> amount to draw, largest number of epochs or infinity).
# Amounts sum to the budget, or to less where caps leave no more.
Sampler = Callable[
  [Mapping[str, Mapping[str, int]], str, float, Mapping[str, float]],
  tuple[dict[str, float], float],
]


def by_temperature(
  *, temperature: float, unit: str, max_epochs: float | None
) -> Sampler:
  """p proportional to n^(1/T), no language more than `max_epochs` times.

  Args:
    temperature: T of `rates.temperature_rates`.
    unit: what n counts, one of UNITS. Rates are shares of the budget, whatever
      its own unit. mT5 counts its examples, which are of equal length: tokens.
    max_epochs: cap of a language; what it cannot take goes to the others. None
      for no cap.

  Raises:
    ValueError: if the unit is unknown or the cap not positive.
  """
  if unit not in UNITS:
    raise ValueError(f"unknown unit {unit!r}; use one of {', '.join(UNITS)}")
  return functools.partial(
    _by_rates,
    functools.partial(_temperature_rates, temperature=temperature, unit=unit),
    _checked_cap(max_epochs),
  )


def by_unimax(*, max_epochs: float) -> Sampler:
  """Equal shares of the budget, no language more than `max_epochs` times.

  Source: Chung et al. 2023 (UniMax), Algorithm 1.
  """
  return functools.partial(
    _by_rates,
    lambda counts: dict.fromkeys(counts, 1.0),
    _checked_cap(max_epochs),
  )


def by_shares(
  *, shares: Mapping[str, float], max_epochs: float | None
) -> Sampler:
  """Shares of the budget as given, code -> share; they sum to 1."""
  rates_lib.check_shares(shares)

  def rates(counts):
    if counts.keys() != shares.keys():
      raise ValueError(
        f"shares are of {sorted(shares)}, the mixture has {sorted(counts)}; "
        "give a share to every language, or leave the language out"
      )
    return shares

  return functools.partial(_by_rates, rates, _checked_cap(max_epochs))


def _checked_cap(max_epochs: float | None) -> float:
  if max_epochs is None:
    return math.inf
  if not max_epochs > 0:
    raise ValueError(f"max_epochs {max_epochs} must be above 0, or None")
  return max_epochs


def _temperature_rates(counts, *, temperature, unit):
  lacking = [code for code, of in counts.items() if unit not in of]
  if lacking:
    raise ValueError(
      f"the counts have no {unit} of {lacking[0]}; choose a unit that they have, "
      "or, if these are old token counts, delete token_counts.json and run "
      "train_tokenizer again"
    )
  return rates_lib.temperature_rates(
    {code: of[unit] for code, of in counts.items()}, temperature=temperature
  )


def _by_rates(rates_of, max_epochs, counts, unit, budget, drawn):
  # A language at its cap keeps one token: a schedule has no rate of 0.
  amounts = rates_lib.capped_amounts(
    rates_of(counts),
    {
      code: max(1.0, max_epochs * of[unit] - drawn[code])
      for code, of in counts.items()
    },
    budget=budget,
  )
  return amounts, max_epochs
