"""Which languages the run has, how much text there is, and how often it is read.

The hundred are `mlm.languages.sets.HUNDRED`, chosen by a rule. Their sizes are
published ones, in published_counts.tsv:

* mc4_gigatokens: Xue et al. 2021 (mT5), table of mC4 by language, billions of
  mT5's tokens, as collected in github.com/mayhewsw/multilingual-data-stats;
  rounded to one or two digits there. No published counts of our tokenizer's.
* fineweb2_words, _documents, _bytes: fineweb2-language-distribution.csv of
  github.com/huggingface/fineweb-2 at d0defb2 (October 2025), train splits;
  it has no English.
"""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from mlm.data import sampling
from mlm.languages import samplers, sets

_COUNTS = pathlib.Path(__file__).with_name("published_counts.tsv")
RULE = (
  "the languages of mC4 (101) that can be checked against a second public text, "
  "parallel (FLORES-200) or crawled (FineWeb-2): all but Hmong"
)


@dataclasses.dataclass(frozen=True)
class Published:
  """Text of one language that others have counted; None where they have not.

  Attributes:
    mc4_tokens: mT5's tokens in mC4.
    fineweb2_words: words in FineWeb-2.
    fineweb2_documents: documents in FineWeb-2.
    fineweb2_bytes: UTF-8 bytes in FineWeb-2.
  """

  mc4_tokens: int | None
  fineweb2_words: int | None
  fineweb2_documents: int | None
  fineweb2_bytes: int | None


def published() -> dict[str, Published]:
  """Code -> published counts, in the order of the registry."""
  rows = csv.DictReader(
    _COUNTS.read_text(encoding="utf-8").splitlines(), delimiter="\t"
  )

  def number(cell, factor=1):
    return round(float(cell) * factor) if cell else None

  return {
    row["code"]: Published(
      number(row["mc4_gigatokens"], 1e9),
      *(
        number(row[f"fineweb2_{name}"])
        for name in ("words", "documents", "bytes")
      ),
    )
    for row in rows
  }


def token_counts(languages: Sequence[str]) -> dict:
  """mC4's published tokens in the form that samplers and plans read.

  Raises:
    ValueError: if a language has no published count; leave it out.
  """
  counts = published()
  missing = [code for code in languages if not counts[code].mc4_tokens]
  if missing:
    raise ValueError(
      f"no published count of mC4 for {', '.join(missing)}; leave them out"
    )
  return {
    code: {"train": {"documents": 0, "tokens": counts[code].mc4_tokens}}
    for code in languages
  }


def plan(
  sampler: samplers.Sampler, num_tokens: float
) -> list[sampling.PlanRow]:
  """How much of each of the hundred a run of so many tokens draws."""
  return sampling.mixture_plan(
    token_counts(sets.HUNDRED),
    sampler=sampler,
    num_tokens=round(num_tokens),
    languages=sets.HUNDRED,
  )


@dataclasses.dataclass(frozen=True)
class Spread:
  """A mixture in a few numbers.

  Attributes:
    most_epochs: of any language.
    english_share: of the tokens drawn.
    least_share: of any language.
    effective_languages: exp of the entropy of the shares; 100 if all are equal.
    repeated_share: of tokens drawn, those read a second time or more.
  """

  most_epochs: float
  english_share: float
  least_share: float
  effective_languages: float
  repeated_share: float


def spread(rows: Sequence[sampling.PlanRow]) -> Spread:
  """The spread of a plan."""
  rates: Mapping[str, float] = {row.language: row.rate for row in rows}
  repeated = sum(max(0.0, r.expected_tokens - r.tokens) for r in rows)
  return Spread(
    most_epochs=max(row.expected_epochs for row in rows),
    english_share=rates["eng_Latn"],
    least_share=min(rates.values()),
    effective_languages=math.exp(
      -sum(rate * math.log(rate) for rate in rates.values())
    ),
    repeated_share=repeated / sum(row.expected_tokens for row in rows),
  )
