"""One HTML page of a corpus: sizes, what each filter took, examples to read."""

import collections
import json
import os
import pathlib

import jinja2

from mlm.evaluation import figures, identification
from mlm.languages import groups, registry
from mlm.text import documents
from mlm.tokenizers import count

_TEMPLATE = pathlib.Path(__file__).parent / "report.html.jinja"
_EXCERPT = 400  # characters of an example
_MAX_CONFUSED = 40  # rows of the figure


def number(value: int | float | None, digits: int = 3) -> str:
  if value is None:
    return "–"
  return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def _pages(funnel: dict) -> dict[str, int]:
  return {c: next(iter(stages.values()))["in"] for c, stages in funnel.items()}


def _by_pages(funnel: dict) -> list[str]:
  """Languages with the most pages first; und, pages without one, last."""
  pages = _pages(funnel)
  return sorted(funnel, key=lambda c: (c == "und", -pages[c], c))


def _sizes(counts: dict, name: str) -> dict[str, int]:
  return {
    code: sum(split[name] for split in splits.values())
    for code, splits in counts["languages"].items()
  }


def filters_section(counts: dict) -> dict:
  """Pages by language left after each filter, and reasons for the rest."""
  funnel, pages = counts["funnel"], _pages(counts["funnel"])
  kept, size = (_sizes(counts, name) for name in ("documents", "bytes"))
  rows = []
  for code in (order := _by_pages(funnel)):
    reasons = ", ".join(
      f"{stage}.{reason} {n:,}"
      for stage, row in funnel[code].items()
      for reason, n in row["dropped"].items()
    )
    sizes = (pages[code], kept.get(code, 0), size.get(code, 0))
    rows.append([code, *map(number, sizes), reasons])
  return {
    "title": "Pages before and after each filter",
    "text": "By the language that the pipeline names; und: no language, or no "
    "text. Reasons are stage.reason and the number of pages.",
    "figure": figures.pages_by_stage(
      {c: f for c, f in funnel.items() if c != "und"},
      [c for c in order if c != "und"],
    ),
    "columns": ["language", "pages", "kept", "bytes kept", "dropped"],
    "rows": rows,
  }


def _waterfall_section(counts: dict) -> dict:
  funnel = counts["funnel"]
  rows = []
  for code in (order := _by_pages(funnel)):
    total = max(_pages(funnel)[code], 1)
    rows.append(
      [
        code,
        *(
          f"{sum(row['dropped'].values()) / total:.1%}"
          for row in funnel[code].values()
        ),
        f"{list(funnel[code].values())[-1]['kept'] / total:.1%}",
      ]
    )
  return {
    "title": "What each filter removed",
    "text": "As shares of the pages that the language had at first.",
    "figure": figures.waterfall(funnel, order),
    "columns": ["language", *counts["stages"], "kept"],
    "rows": rows,
  }


def _sizes_section(counts: dict, tokens: dict[str, int] | None) -> dict:
  pages, words, size = (
    _sizes(counts, name) for name in ("documents", "words", "bytes")
  )
  order = sorted(pages, key=lambda c: (-pages[c], c))
  unit, amounts = ("tokens", tokens) if tokens else ("words", words)
  return {
    "title": f"Pages and {unit} of each language",
    "text": "Words of scripts without spaces are estimated from letters."
    if tokens is None
    else "Tokens are the training text's, by the tokenizer given.",
    "figure": figures.corpus_sizes(pages, amounts, order, unit),
    "columns": ["language", "pages", unit, "bytes"],
    "rows": [
      [c, *(number(x.get(c)) for x in (pages, amounts, size))] for c in order
    ],
  }


def _groups_section(counts: dict) -> dict:
  names = ("documents", "words", "bytes")
  sizes = [_sizes(counts, name) for name in names]
  pages = _pages(counts["funnel"])
  known = [c for c in _by_pages(counts["funnel"]) if c in registry.codes()]
  rows = []
  for grouping in groups.GROUPINGS:
    for name, codes in groups.members(known, grouping).items():
      sums = [sum(x.get(c, 0) for c in codes) for x in (pages, *sizes)]
      label = f"{grouping.replace('_', ' ')} {name}"
      rows.append([label, number(len(codes)), *map(number, sums)])
  return {
    "title": "By group",
    "text": "Languages of the registry only.",
    "figure": "",
    "columns": ["group", "languages", "pages", "kept", *names[1:]],
    "rows": rows,
  }


def agreement_section(decisions: list[dict], truth: dict[str, str]) -> dict:
  """Accepted and right pages of each true language."""
  rows = identification.agreement(decisions, truth)
  order = sorted(rows, key=lambda c: (-rows[c]["pages"], c))
  accepted = sum(r["accepted"] for r in rows.values())
  right = sum(r["right"] for r in rows.values())
  names = ("pages", "accepted", "right", "kept")
  return {
    "title": "Language identification against the truth",
    "text": f"Of {accepted:,} pages that pass as their language and whose true "
    f"one is known, {right / max(accepted, 1):.1%} got that language.",
    "figure": "",
    "columns": ["true language", *names],
    "rows": [[c, *(number(rows[c][n]) for n in names)] for c in order],
  }


def _confusion_section(decisions: list[dict], truth: dict[str, str]) -> dict:
  wrong = identification.confusions(decisions, truth)
  leaks = sum(n for (t, _), n in wrong.items() if t not in registry.codes())
  by_true: collections.Counter = collections.Counter()
  for (true, _), n in wrong.items():
    by_true[true] += n
  shown = [code for code, _ in by_true.most_common(_MAX_CONFUSED)]
  return {
    "title": "Pages with another language than their true one",
    "text": f"{sum(wrong.values()):,} pages pass as another language, {leaks:,} "
    "of them in one that the pipeline does not know (marked *).",
    "figure": figures.confusions(wrong, shown, set(registry.codes())),
    "columns": ["true language", "named", "pages"],
    "rows": [
      [true, named, number(n)]
      for (true, named), n in sorted(
        wrong.items(), key=lambda item: (-item[1], item[0])
      )
    ],
  }


def _excerpt(text: str) -> str:
  return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} …"


def bcp47(code: str) -> str:
  """The language tag of a code of the registry; "" of another."""
  return registry.get(code).bcp47 if code in registry.codes() else ""


def _example(code: str, text: str, note: str) -> dict:
  return {
    "caption": f"{code}: {note}",
    "tag": bcp47(code),
    "text": _excerpt(text),
  }


def _dropped_section(corpus: str, counts: dict) -> dict:
  """One example of each reason in each language, reasons in order of stages."""
  by_reason: dict = {}
  for code in _by_pages(counts["funnel"]):
    for path in sorted((pathlib.Path(corpus) / "dropped" / code).glob("*")):
      with path.open(encoding="utf-8") as lines:
        row = json.loads(next(lines))
      by_reason.setdefault(path.stem, []).append(
        _example(code, row["text"], row["url"])
      )
  stages = counts["stages"]
  reasons = sorted(by_reason, key=lambda r: (stages.index(r.split(".")[0]), r))
  return {
    "title": "Dropped",
    "text": "One page of each language and reason, chosen by hash.",
    "figure": "",
    "examples": {reason: by_reason[reason] for reason in reasons},
  }


def _kept_section(corpus: str, counts: dict) -> dict:
  """The first page of each language; shards are in the order of a hash."""
  examples = []
  for code, splits in counts["languages"].items():
    split = (
      "train" if splits.get("train", {}).get("documents") else "validation"
    )
    page = next(documents.read_documents(corpus, code, split))
    examples.append(_example(code, page.text, page.url))
  return {
    "title": "Kept",
    "text": "One page of each language, chosen by hash.",
    "figure": "",
    "examples": {"each language": examples},
  }


def render(path: str, **content) -> None:
  """Writes the page of `report.html.jinja`, complete or not at all."""
  environment = jinja2.Environment(autoescape=True)
  page = environment.from_string(_TEMPLATE.read_text()).render(**content)
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  partial = f"{path}.partial"
  pathlib.Path(partial).write_text(page, encoding="utf-8")
  os.replace(partial, path)


def write_report(*, corpus: str, truth: str, tokenizer: str, path: str) -> None:
  """Writes the report of a corpus.

  Args:
    corpus: directory of a finished corpus.
    truth: table of url and language; "" if the truth is not known.
    tokenizer: directory with token_counts.json; "" counts words instead.
    path: HTML file to write.

  Raises:
    FileNotFoundError, ValueError: if the corpus is unfinished, or in a format
      that this project does not read, or the truth table lacks a column.
  """
  counts = documents.read_counts(corpus)
  tokens = None
  if tokenizer:
    tokens = {
      code: sum(split["tokens"] for split in splits.values())
      for code, splits in count.read_token_counts(tokenizer).items()
    }
  judged = []
  if truth:
    labels = identification.read_truth(truth)
    decisions = identification.read_decisions(corpus)
    judged = [
      agreement_section(decisions, labels),
      _confusion_section(decisions, labels),
    ]
  pages, kept = (
    sum(x.values())
    for x in (_pages(counts["funnel"]), _sizes(counts, "documents"))
  )
  render(
    path,
    title=f"{counts['pipeline']}: {os.path.basename(os.path.normpath(corpus))}",
    headline=[
      ("languages", len(counts["languages"])),
      ("pages read", number(pages)),
      ("pages kept", f"{number(kept)} ({kept / max(pages, 1):.0%})"),
      ("words kept", number(sum(_sizes(counts, "words").values()))),
    ],
    sections=[
      _sizes_section(counts, tokens),
      filters_section(counts),
      _waterfall_section(counts),
      _groups_section(counts),
      *judged,
      _kept_section(corpus, counts),
      _dropped_section(corpus, counts),
    ],
    samples=[],
  )
