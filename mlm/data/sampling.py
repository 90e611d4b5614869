"""How much of each language a run will see: rates, tokens and epochs."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from mlm.languages import groups
from mlm.tokenizers import sample

temperature_rates = sample.temperature_rates


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
  temperature: float,
  num_tokens: int,
  languages: Sequence[str],
) -> list[PlanRow]:
  """Plans a run: p proportional to tokens^(1/T) over the chosen languages.

  Args:
    token_counts: `mlm.tokenizers.count.read_token_counts`.
    temperature: T of `temperature_rates`, over tokens of the train split.
    num_tokens: tokens of the whole run, > 0: steps x batch x length.
    languages: codes to mix, each with train data.

  Returns:
    Rows with the largest corpus first; rates sum to 1.

  Raises:
    ValueError: if a language has no train tokens, or num_tokens is not
      positive.
  """
  if num_tokens < 1:
    raise ValueError(f"num_tokens {num_tokens} must be positive")
  train = {
    code: token_counts.get(code, {}).get("train", {"documents": 0, "tokens": 0})
    for code in languages
  }
  rates = temperature_rates(
    {code: counts["tokens"] for code, counts in train.items()},
    temperature=temperature,
  )
  rows = [
    PlanRow(
      language=code,
      documents=counts["documents"],
      tokens=counts["tokens"],
      rate=rates[code],
      expected_tokens=rates[code] * num_tokens,
      expected_epochs=rates[code] * num_tokens / counts["tokens"],
    )
    for code, counts in train.items()
  ]
  return sorted(rows, key=lambda row: (-row.tokens, row.language))


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
