"""How much of each language a run will see: rates, tokens and epochs."""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.languages import groups, registry, samplers

_DRIFT_STANDARD_ERRORS = 4.0


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
  sampler: samplers.Sampler,
  num_tokens: int,
  languages: Sequence[str],
) -> list[PlanRow]:
  """Plans a run: how many tokens of each of the chosen languages it draws.

  Args:
    token_counts: `mlm.tokenizers.count.read_token_counts`.
    sampler: of `mlm.languages.samplers`.
    num_tokens: tokens of the whole run, > 0: steps x batch x length.
    languages: codes to mix, each with train data.

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
  amounts, max_epochs = sampler(train, "tokens", num_tokens)
  total = math.fsum(amounts.values())
  if total < num_tokens * (1 - 1e-9):
    raise ValueError(
      f"the run wants {num_tokens:,} tokens, but at most {max_epochs:g} epochs of "
      f"{len(train)} languages are {total:,.0f}: a shortfall of "
      f"{num_tokens - total:,.0f}. Raise max_epochs, shorten the run, or add text"
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
  rows: Sequence[PlanRow], observed: Mapping[str, int], *, sequence_length: int
) -> dict[str, tuple[float, float]]:
  """Languages whose observed share of tokens is not the planned one.

  More than 4 standard errors of as many independent draws as the tokens fill
  rows.

  Args:
    rows: the plan.
    observed: code -> tokens seen in training.
    sequence_length: tokens a row.

  Returns:
    code -> (planned, observed share), of those that drift.
  """
  total = sum(observed.values())
  draws = max(1, total // sequence_length)
  planned = {row.language: row.rate for row in rows}
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
  rows: Sequence[PlanRow],
  *,
  period: int,
  warn: Callable[[str], Any],
) -> Iterator[dict[str, np.ndarray]]:
  """Passes batches on; warns, once a language, when what they hold drifts.

  Args:
    batches: with "decoder_language_ids" and "decoder_segment_ids" [B, T].
    rows: the plan.
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
      found = drifts(rows, observed, sequence_length=length)
      for code in found.keys() - told:
        planned, share = found[code]
        warn(
          f"{code} has {share:.3%} of the tokens of {number} batches, planned "
          f"were {planned:.3%}"
        )
      told |= found.keys()
    yield batch


def write_plan(rows: Sequence[PlanRow], path: str) -> None:
  """Writes a plan as JSON, whole or not at all."""
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8") as f:
    json.dump([dataclasses.asdict(row) for row in rows], f, indent=1)
  os.replace(partial, path)


def read_plan(path: str) -> list[PlanRow]:
  """Reads what `write_plan` wrote."""
  with open(path, encoding="utf-8") as f:
    return [PlanRow(**row) for row in json.load(f)]


def format_plan(rows: Sequence[PlanRow]) -> str:
  """The table printed before training: per language, then per Joshi class.

  A group's epochs are its expected tokens over its tokens. Source of the
  classes: Joshi et al. 2020.
  """
  by_language = {row.language: row for row in rows}
  classes = groups.members(by_language, "joshi_class")
  lines = [_line("language", "documents", "tokens", "rate", "epochs")]
  lines += [_format_rows(row.language, [row]) for row in rows]
  lines += ["", _line("Joshi class", "documents", "tokens", "rate", "epochs")]
  lines += [
    _format_rows(f"{name} ({len(codes)})", [by_language[c] for c in codes])
    for name, codes in classes.items()
  ]
  lines.append(_format_rows(f"all ({len(rows)})", rows))
  return "\n".join(lines)


def _format_rows(name: str, rows: Sequence[PlanRow]) -> str:
  tokens = sum(row.tokens for row in rows)
  return _line(
    name,
    f"{sum(row.documents for row in rows):,}",
    f"{tokens:,}",
    f"{sum(row.rate for row in rows):.4%}",
    f"{sum(row.expected_tokens for row in rows) / tokens:.3g}",
  )


def _line(name: str, *cells: str) -> str:
  return f"{name:<12}" + "".join(f"{cell:>18}" for cell in cells)
