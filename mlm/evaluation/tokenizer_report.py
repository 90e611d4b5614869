"""One HTML page, and one table, that compare tokenizers by language."""

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mlm.evaluation import corpus_report, figures
from mlm.languages import groups
from mlm.tokenizers import encoders, fairness

_DIGITS = {"premium": 2, "premium_mean": 2, "premium_p95": 2}


def _cell(name: str, value: float | int | None) -> str:
  if name in ("lossless", "byte_fallback_rate", "continued_words"):
    return "–" if value is None else f"{value:.1%}"
  return corpus_report.number(value, _DIGITS.get(name, 3))


def _is_english(label: str) -> bool:
  return label.partition("-")[0] == fairness.ENGLISH


def _card_section(
  name: str, measures: Mapping[str, fairness.Measures], order: Sequence[str]
) -> dict:
  fields = [f.name for f in dataclasses.fields(fairness.Measures)]
  premiums = {x: measures[x].premium for x in order if not _is_english(x)}
  worst = max(premiums, key=premiums.get)
  lossy = sum(m.lossless < 1 for m in measures.values())
  return {
    "title": f"Report card: {name}",
    "text": f"Premium {np.mean(list(premiums.values())):.2f} in the mean, "
    f"{premiums[worst]:.2f} at worst ({worst}), Gini "
    f"{fairness.gini(list(premiums.values())):.3f}; English takes "
    f"{measures[fairness.ENGLISH].tokens_per_line:.1f} tokens a line; lines are "
    f"lost in {lossy} languages. A language costs its premium times as much as "
    "English, and a context holds 1 ÷ premium as much of it.",
    "figure": "",
    "columns": ["language", *(f.replace("_", " ") for f in fields)],
    "rows": [
      [x, *(_cell(f, getattr(measures[x], f)) for f in fields)] for x in order
    ],
  }


def by_group(
  measures: Mapping[str, fairness.Measures],
) -> list[tuple[str, int, float, float]]:
  """(group, languages, mean premium, worst premium), English left out.

  Labels that name no language of the registry are one group.
  """
  labels: dict[str, list[str]] = {}
  unknown = []
  for label in measures:
    language = fairness.language_of(label)
    if language is None:
      unknown.append(label)
    elif not _is_english(label):
      labels.setdefault(language.code, []).append(label)
  rows = [("not in the registry", unknown)] if unknown else []
  for grouping in groups.GROUPINGS:
    for name, codes in groups.members(labels, grouping).items():
      of_group = [label for code in codes for label in labels[code]]
      rows.append((f"{grouping.replace('_', ' ')} {name}", of_group))
  result = []
  for name, of_group in rows:
    premiums = [measures[label].premium for label in of_group]
    result.append(
      (name, len(of_group), float(np.mean(premiums)), max(premiums))
    )
  return result


def _groups_section(cards: Mapping[str, Mapping]) -> dict:
  tables = {name: by_group(measures) for name, measures in cards.items()}
  rows = []
  for i, (group, number, *_) in enumerate(next(iter(tables.values()))):
    row = [group, str(number)]
    for table in tables.values():
      row += [f"{table[i][2]:.2f}", f"{table[i][3]:.2f}"]
    rows.append(row)
  return {
    "title": "Premium by group",
    "text": "Means over languages, English left out, and the worst.",
    "figure": "",
    "columns": [
      "group",
      "languages",
      *(f"{name}: {what}" for name in cards for what in ("mean", "worst")),
    ],
    "rows": rows,
    "open": True,
  }


def write_report(
  *, tokenizers: Mapping[str, str], parallel: str, directory: str
) -> dict[str, dict[str, fairness.Measures]]:
  """Writes tokenizers.html and tokenizers.tsv.

  Args:
    tokenizers: name -> path, as `encoders.open_encoder` takes.
    parallel: directory that `fairness.read_parallel` takes.
    directory: to write to.

  Returns:
    name -> label -> measures.

  Raises:
    FileNotFoundError, ValueError: if a tokenizer or a text cannot be read.
  """
  texts = fairness.read_parallel(parallel)
  opened = [encoders.open_encoder(p, name) for name, p in tokenizers.items()]
  cards, counts = {}, {}
  for encoder in opened:
    cards[encoder.name], counts[encoder.name] = fairness.report_card(
      encoder, texts
    )
  first = next(iter(cards))
  order = sorted(texts, key=lambda label: cards[first][label].premium)
  some = [label for label in order if fairness.language_of(label)]
  divergences = np.array(
    [
      [
        fairness.jensen_shannon(counts[first][a], counts[first][b])
        for b in some
      ]
      for a in some
    ]
  )
  others = [label for label in order if not _is_english(label)]
  sections = [
    {
      "title": "Premium of each language",
      "text": "Tokens for the same lines, English 1.",
      "figure": figures.premiums(
        {n: {x: m[x].premium for x in others} for n, m in cards.items()}, others
      ),
    },
    _groups_section(cards),
    *(_card_section(name, card, order) for name, card in cards.items()),
    {
      "title": f"Overlap of vocabularies: {first}",
      "text": "Languages in the order of their premium; pairs share more tokens "
      "the darker they are.",
      "figure": figures.overlaps(divergences, some),
    },
  ]
  lines = cards[first][fairness.ENGLISH].lines
  corpus_report.render(
    os.path.join(directory, "tokenizers.html"),
    title="Tokenizers by language",
    headline=[
      ("languages", len(texts)),
      ("lines", f"{lines:,}"),
      *((f"pieces, {e.name}", f"{e.vocab_size:,}") for e in opened),
    ],
    sections=sections,
    samples=[],
  )
  _write_table(os.path.join(directory, "tokenizers.tsv"), cards)
  return cards


def _write_table(path: str, cards: Mapping[str, Mapping]) -> None:
  fields = [f.name for f in dataclasses.fields(fairness.Measures)]
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8", newline="") as f:
    writer = csv.writer(f, delimiter="\t", lineterminator="\n")
    writer.writerow(["tokenizer", "language", *fields])
    for name, card in cards.items():
      for label, measures in card.items():
        values = dataclasses.astuple(measures)
        writer.writerow(
          [name, label, *("" if v is None else v for v in values)]
        )
  os.replace(partial, path)
