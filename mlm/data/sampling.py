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
  drawn: Mapping[str, float] | None = None,
) -> list[PlanRow]:
  """Plans one phase: how many tokens of each of the chosen languages it draws.

  Args:
    token_counts: `mlm.tokenizers.count.read_token_counts`.
    sampler: of `mlm.languages.samplers`.
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
    train, "tokens", num_tokens, drawn or dict.fromkeys(train, 0.0)
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
  rates: Mapping[str, float], observed: Mapping[str, int], *, draws: int
) -> dict[str, tuple[float, float]]:
  """Names whose observed share is not the planned one.

  More than 4 standard errors of as many independent draws.

  Args:
    rates: name -> planned share.
    observed: name -> amount seen in training.
    draws: rows that the amounts came in.

  Returns:
    name -> (planned, observed share), of those that drift.
  """
  total = max(1, sum(observed.values()))
  result = {}
  for name in sorted(rates.keys() | observed.keys()):
    rate, share = rates.get(name, 0.0), observed.get(name, 0) / total
    error = math.sqrt(rate * (1 - rate) / max(1, draws))
    # A row more or less is no drift, however rare the name.
    if abs(share - rate) > _DRIFT_STANDARD_ERRORS * error + 1 / max(1, draws):
      result[name] = rate, share
  return result


def tokens_by_language(batch: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Code -> tokens of a batch, which has language and segment ids [B, T]."""
  ids = batch["decoder_language_ids"][batch["decoder_segment_ids"] > 0]
  counts = np.bincount(ids).tolist()
  return {registry.codes()[i]: n for i, n in enumerate(counts) if n}


def audited(
  batches: Iterator[dict[str, np.ndarray]],
  planned: Callable[[int], Mapping[str, float]],
  *,
  observe: Callable[[dict[str, np.ndarray]], Mapping[str, int]],
  unit: str,
  period: int,
  warn: Callable[[str], Any],
) -> Iterator[dict[str, np.ndarray]]:
  """Passes batches on; warns, once a name, when what they hold drifts.

  Args:
    batches: with "decoder_segment_ids" [B, T].
    planned: number of batches -> name -> share of what they hold.
    observe: batch -> amounts by name.
    unit: of the amounts, in the plural.
    period: batches between checks.
    warn: given a line of text.
  """
  observed: collections.Counter = collections.Counter()
  draws, told = 0, set()
  for number, batch in enumerate(batches, start=1):
    observed.update(observe(batch))
    draws += len(batch["decoder_segment_ids"])
    if number % period == 0:
      found = drifts(planned(number), observed, draws=draws)
      for name in found.keys() - told:
        wanted, share = found[name]
        warn(
          f"{name} has {share:.3%} of the {unit} of {number} batches, planned "
          f"were {wanted:.3%}"
        )
      told |= found.keys()
    yield batch


def write_plan(content: Any, path: str) -> None:
  """Writes a plan as JSON, whole or not at all."""
  with open(f"{path}.partial", "w", encoding="utf-8") as f:
    json.dump(content, f, indent=1)
  os.replace(f"{path}.partial", path)


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
