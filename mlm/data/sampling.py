"""How much of each language a run will see: rates, tokens and epochs."""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.languages import groups, registry
from mlm.languages import rates as rates_lib

UNITS = ("tokens", "documents", "characters", "bytes")
_DRIFT_STANDARD_ERRORS = 4.0

# (code -> {unit: amount in the train split}, tokens to draw, code -> tokens drawn
# before) -> (code -> tokens to draw, largest number of epochs or infinity).
Sampler = Callable[
  [Mapping[str, Mapping[str, int]], float, Mapping[str, float]],
  tuple[dict[str, float], float],
]


def by_temperature(
  *, temperature: float, unit: str, max_epochs: float | None
) -> Sampler:
  """p proportional to n^(1/T), no language more than `max_epochs` times.

  Args:
    temperature: T of `rates.temperature_rates`.
    unit: what n counts, one of UNITS. Rates are shares of the tokens of a run
      all the same. mT5 counts its examples, which are of equal length: tokens.
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
  """Equal shares of tokens, no language more than `max_epochs` times.

  Source: Chung et al. 2023 (UniMax), Algorithm 1, over tokens.
  """
  return functools.partial(
    _by_rates,
    lambda counts: dict.fromkeys(counts, 1.0),
    _checked_cap(max_epochs),
  )


def by_shares(
  *, shares: Mapping[str, float], max_epochs: float | None
) -> Sampler:
  """Shares of tokens as given, code -> share; they sum to 1."""
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
      f"the token counts have no {unit} of {lacking[0]}; delete token_counts.json "
      "and run train_tokenizer again, which counts them"
    )
  return rates_lib.temperature_rates(
    {code: of[unit] for code, of in counts.items()}, temperature=temperature
  )


def _by_rates(rates_of, max_epochs, counts, num_tokens, drawn):
  # A language at its cap keeps one token: a schedule has no rate of 0.
  amounts = rates_lib.capped_amounts(
    rates_of(counts),
    {
      code: max(1.0, max_epochs * of["tokens"] - drawn[code])
      for code, of in counts.items()
    },
    budget=num_tokens,
  )
  return amounts, max_epochs


@dataclasses.dataclass(frozen=True)
class PlanRow:
  """One language of a mixture plan.

  Attributes:
    language: code.
    documents: documents in the train split.
    tokens: tokens in the train split, one EOS a document included.
    rate: share of the tokens of the mixture.
    expected_tokens: rate times the tokens of the run.
    expected_epochs: expected_tokens / tokens.
  """

  language: str
  documents: int
  tokens: int
  rate: float
  expected_tokens: float
  expected_epochs: float


def mixture_plan(
  token_counts: Mapping,
  *,
  sampler: Sampler,
  num_tokens: int,
  languages: Sequence[str],
  drawn: Mapping[str, float] | None = None,
) -> list[PlanRow]:
  """Plans one phase: how many tokens of each of the chosen languages it draws.

  Args:
    token_counts: `mlm.tokenizers.count.read_token_counts`.
    sampler: `by_temperature`, `by_unimax` or `by_shares`.
    num_tokens: tokens to draw, > 0: steps x batch x length.
    languages: codes to mix, each with train data.
    drawn: code -> tokens drawn by earlier phases, which count against caps;
      None for none.

  Returns:
    Rows with the largest corpus first; rates sum to 1.

  Raises:
    ValueError: if a language has no train tokens, num_tokens is not positive,
      or the caps leave less data than the run wants.
  """
  if num_tokens < 1:
    raise ValueError(f"num_tokens {num_tokens} must be positive")
  train = {
    code: token_counts.get(code, {}).get("train", {}) for code in languages
  }
  empty = sorted(code for code, of in train.items() if not of.get("tokens"))
  if empty or not train:
    raise ValueError(f"languages without train tokens: {empty}; leave them out")
  amounts, max_epochs = sampler(
    train, num_tokens, drawn or dict.fromkeys(train, 0.0)
  )
  total = math.fsum(amounts.values())
  if total < num_tokens * (1 - 1e-9):
    raise ValueError(
      f"the run wants {num_tokens:,} tokens, but what is left of at most "
      f"{max_epochs:g} epochs of {len(train)} languages is {total:,.0f}: a "
      f"shortfall of {num_tokens - total:,.0f}. Raise max_epochs, shorten the "
      "run, or add text"
    )
  rows = [
    PlanRow(
      language=code,
      documents=of["documents"],
      tokens=of["tokens"],
      rate=amounts[code] / total,
      expected_tokens=amounts[code],
      expected_epochs=amounts[code] / of["tokens"],
    )
    for code, of in train.items()
  ]
  return sorted(rows, key=lambda row: (-row.tokens, row.language))


def drifts(
  planned: Mapping[str, float],
  observed: Mapping[str, int],
  *,
  sequence_length: int,
) -> dict[str, tuple[float, float]]:
  """Languages whose observed share of tokens is not the planned one.

  More than 4 standard errors of as many independent draws as the tokens fill
  rows.

  Args:
    planned: code -> share of tokens.
    observed: code -> tokens seen in training.
    sequence_length: tokens a row.

  Returns:
    code -> (planned, observed share), of those that drift.
  """
  total = sum(observed.values())
  draws = max(1, total // sequence_length)
  result = {}
  for code in sorted(planned.keys() | observed.keys()):
    rate, share = planned.get(code, 0.0), observed.get(code, 0) / max(total, 1)
    error = math.sqrt(rate * (1 - rate) / draws)
    # A row more or less is no drift, however rare the language.
    if abs(share - rate) > _DRIFT_STANDARD_ERRORS * error + 1 / draws:
      result[code] = rate, share
  return result


def audited(
  batches: Iterator[dict[str, np.ndarray]],
  planned: Callable[[int], Mapping[str, float]],
  *,
  period: int,
  warn: Callable[[str], Any],
) -> Iterator[dict[str, np.ndarray]]:
  """Passes batches on; warns, once a language, when what they hold drifts.

  Args:
    batches: with "decoder_language_ids" and "decoder_segment_ids" [B, T].
    planned: number of batches -> code -> share of their tokens.
    period: batches between checks.
    warn: given a line of text.
  """
  observed: collections.Counter = collections.Counter()
  codes, told = registry.codes(), set()
  for number, batch in enumerate(batches, start=1):
    ids = batch["decoder_language_ids"][batch["decoder_segment_ids"] > 0]
    for index, count in enumerate(np.bincount(ids)):
      if count:
        observed[codes[index]] += int(count)
    if number % period == 0:
      length = batch["decoder_language_ids"].shape[1]
      found = drifts(planned(number), observed, sequence_length=length)
      for code in found.keys() - told:
        wanted, share = found[code]
        warn(
          f"{code} has {share:.3%} of the tokens of {number} batches, planned "
          f"were {wanted:.3%}"
        )
      told |= found.keys()
    yield batch


def read_plan(path: str) -> list[PlanRow]:
  """Rows over the whole run, of what `phases.write_plan` wrote."""
  with open(path, encoding="utf-8") as f:
    return [PlanRow(**row) for row in json.load(f)["rows"]]


def format_plan(
  rows: Sequence[PlanRow],
  *,
  shares: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
  """The table printed before training: per language, then per Joshi class.

  A group's epochs are its expected tokens over its tokens. Source of the
  classes: Joshi et al. 2020.

  Args:
    rows: of the plan.
    shares: name of a further column -> code -> value in [0, 1]; a group's is
      the mean by rate.
  """
  shares = shares or {}
  by_language = {row.language: row for row in rows}
  classes = groups.members(by_language, "joshi_class")
  named = ("documents", "tokens", "rate", "epochs", *shares)
  lines = [_line("language", *named)]
  lines += [_format_rows(row.language, [row], shares) for row in rows]
  lines += ["", _line("Joshi class", *named)]
  lines += [
    _format_rows(
      f"{name} ({len(codes)})", [by_language[c] for c in codes], shares
    )
    for name, codes in classes.items()
  ]
  lines.append(_format_rows(f"all ({len(rows)})", rows, shares))
  return "\n".join(lines)


def _format_rows(name, rows: Sequence[PlanRow], shares) -> str:
  tokens = sum(row.tokens for row in rows)
  rate = math.fsum(row.rate for row in rows)
  return _line(
    name,
    f"{sum(row.documents for row in rows):,}",
    f"{tokens:,}",
    f"{rate:.4%}",
    f"{sum(row.expected_tokens for row in rows) / tokens:.3g}",
    *(
      f"{sum(row.rate * of[row.language] for row in rows) / rate:.2%}"
      for of in shares.values()
    ),
  )


def _line(name: str, *cells: str) -> str:
  return f"{name:<12}" + "".join(f"{cell:>18}" for cell in cells)
