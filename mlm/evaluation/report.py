"""One self-contained HTML page of a whole run."""

import json
import os

from mlm.data import sampling
from mlm.evaluation import (
  alignment_report,
  comparison_report,
  corpus_report,
  figures,
  identification,
)
from mlm.languages import groups
from mlm.text import documents
from mlm.training import metrics


def _mixture_section(plan: list[sampling.PlanRow]) -> dict:
  return {
    "title": "Mixture: shares of tokens",
    "text": "Of the training text, and of what the model is trained on.",
    "figure": figures.mixture_rates(
      {r.language: r.tokens for r in plan},
      {r.language: r.rate for r in plan},
    ),
    "columns": ["language", "documents", "tokens", "rate", "epochs"],
    "rows": [
      [
        r.language,
        corpus_report.number(r.documents),
        corpus_report.number(r.tokens),
        f"{r.rate:.3%}",
        corpus_report.number(r.expected_epochs, 2),
      ]
      for r in plan
    ],
  }


def _bits_section(rows: dict) -> dict:
  order = sorted(rows, key=lambda c: -rows[c]["train_tokens"])
  return {
    "title": "Held-out bits per byte",
    "text": "Against the entropy of the tokenizer's pieces in the language's "
    "training text. Not comparable across languages.",
    "figure": figures.bits_per_byte(rows),
    "columns": [
      "language",
      "bits/byte",
      "unigram entropy",
      "unigram cross-entropy",
      "train tokens",
      "documents",
    ],
    "rows": [
      [
        c,
        corpus_report.number(rows[c]["bits_per_byte"]),
        corpus_report.number(rows[c]["unigram_entropy"]),
        corpus_report.number(rows[c]["unigram_cross_entropy"]),
        corpus_report.number(rows[c]["train_tokens"]),
        corpus_report.number(rows[c]["documents"]),
      ]
      for c in order
    ],
  }


def _generation_section(generation: dict) -> dict:
  columns = ["language", "samples"]
  parts = ("reward", "right_language", "no_repetition", "ends", "reward_model")
  columns += [f"{part}: SFT → RLOO" for part in parts] + ["KL"]
  rows = []
  codes = ["overall", *generation["sft"]["by_language"]]
  for code in codes:
    sft, rloo = (
      generation[n]["overall"]
      if code == "overall"
      else generation[n]["by_language"][code]
      for n in ("sft", "rloo")
    )
    told = [
      f"{corpus_report.number(sft[p], 2)} ± {corpus_report.number(sft[f'{p}_standard_error'], 2)} → "
      f"{corpus_report.number(rloo[p], 2)} ± {corpus_report.number(rloo[f'{p}_standard_error'], 2)}"
      for p in parts
    ]
    rows.append(
      [
        code,
        corpus_report.number(sft["samples"]),
        *told,
        corpus_report.number(rloo["kl"], 2),
      ]
    )
  return {
    "title": "Generations on held-out prompts",
    "text": "Means ± standard errors, clustered by source document. KL is the "
    "summed log ratio to the fine-tuned model, in nats a response.",
    "figure": "",
    "columns": columns,
    "rows": rows,
    "open": True,
  }


def _win_section(win_rate: dict) -> dict:
  return comparison_report.rates_section(
    {"win_rate": win_rate},
    title="Win rate of RLOO over SFT",
    text="The judge adds right language (by py3langid, which training never "
    "used), no repetition and an end. 95 % bootstrap intervals.",
    seen=None,
  )


def _groups_section(counts: dict, plan: list, results: dict) -> dict:
  bits, win = results["bits_per_byte"], results["win_rate"]["by_language"]
  sft, rloo = (
    results["generation"][name]["by_language"] for name in ("sft", "rloo")
  )
  pages = {c: next(iter(f.values()))["in"] for c, f in counts["funnel"].items()}
  documents_kept = {
    c: sum(s["documents"] for s in splits.values())
    for c, splits in counts["languages"].items()
  }
  totals = (
    pages,
    documents_kept,
    {row.language: row.tokens for row in plan},
    {row.language: row.rate for row in plan},
  )
  averages = (
    {c: r["bits_per_byte"] / r["unigram_entropy"] for c, r in bits.items()},
    {c: r["reward"] for c, r in sft.items()},
    {c: r["reward"] for c, r in rloo.items()},
    {c: r["kl"] for c, r in rloo.items()},
    {c: r["delta"] for c, r in win.items()},
  )
  rows = []
  for grouping in groups.GROUPINGS:
    of_group = groups.members((c for c in pages if c != "und"), grouping)
    for name, codes in of_group.items():
      sums = [sum(x.get(c, 0) for c in codes) for x in totals]
      rows.append(
        [
          f"{grouping.replace('_', ' ')} {name}",
          corpus_report.number(len(codes)),
          *map(corpus_report.number, sums[:3]),
          f"{sums[3]:.1%}",
          *(
            corpus_report.number(groups.macro_average(x, codes), 2)
            for x in averages
          ),
        ]
      )
  return {
    "title": "By group",
    "text": "Pages, documents, tokens and rates are sums; the other columns "
    "are means over the languages of the group that have the number.",
    "figure": "",
    "columns": [
      "group",
      "languages",
      "pages",
      "kept",
      "train tokens",
      "rate",
      "bits/byte ÷ unigram",
      "reward SFT",
      "reward RLOO",
      "KL",
      "win − loss",
    ],
    "rows": rows,
    "open": True,
  }


def write_report(*, run: str, truth: str, path: str) -> None:
  """Writes the report of a run directory.

  Args:
    run: directory with corpus, pretrain, rloo and evaluation.
    truth: table url, language to compare identification with; "" for none.
    path: HTML file to write.

  Raises:
    FileNotFoundError: if a part of the run is missing.
  """
  corpus = os.path.join(run, "corpus")
  counts = documents.read_counts(corpus)
  results_path = os.path.join(run, "evaluation", "results.json")
  if not os.path.exists(results_path):
    raise FileNotFoundError(f"no {results_path}; run the job evaluate first")
  with open(results_path, encoding="utf-8") as f:
    results = json.load(f)
  curves = {
    name: metrics.read(os.path.join(run, name, "metrics.jsonl"))
    for name in ("pretrain", "rloo")
  }
  bits = results["bits_per_byte"]
  largest = sorted(bits, key=lambda c: -bits[c]["train_tokens"])
  generation, win = results["generation"], results["win_rate"]
  plan = sampling.read_plan(os.path.join(run, "pretrain", "mixture.json"))
  judged = []
  if truth:
    decisions = identification.read_decisions(corpus)
    labels = identification.read_truth(truth)
    judged = [corpus_report.agreement_section(decisions, labels)]
  sections = [
    corpus_report.filters_section(counts),
    *judged,
    _mixture_section(plan),
    {
      "title": "Pretraining loss",
      "text": "Per-token losses depend on the tokenizer; compare a language "
      "with itself only.",
      "figure": figures.loss_curves(curves["pretrain"], largest),
    },
    _bits_section(bits),
    *alignment_report.sections(os.path.join(run, "rloo"), curves["rloo"]),
    _generation_section(generation),
    _win_section(win),
    _groups_section(counts, plan, results),
  ]
  kept = sum(
    s["documents"] for x in counts["languages"].values() for s in x.values()
  )
  below = sum(r["bits_per_byte"] < r["unigram_entropy"] for r in bits.values())
  sft, rloo = (generation[n]["overall"] for n in ("sft", "rloo"))
  headline = [
    ("languages in the corpus", len(counts["languages"])),
    ("documents kept", f"{kept:,}"),
    ("languages below the unigram entropy", f"{below} of {len(bits)}"),
    ("mean reward, SFT → RLOO", f"{sft['reward']:.2f} → {rloo['reward']:.2f}"),
    ("win − loss, points", f"{win['overall']['delta']:+.1f}"),
  ]
  corpus_report.render(
    path,
    title=f"Run report: {os.path.basename(os.path.normpath(run))}",
    headline=headline,
    sections=sections,
    samples=results["samples"],
  )
