"""One self-contained HTML page of a training run, also while it is under way."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mlm.evaluation import alignment_report, corpus_report, figures
from mlm.languages import groups
from mlm.training import ledger, loop, metrics


def _language_rows(
  first: Mapping, last: Mapping, planned: Mapping[str, float]
) -> list[list[str]]:
  """A row a language, by tokens seen, then the macro averages of groups."""
  losses = last["loss_by_language"]
  bits = last.get("bits_per_byte_by_language", {})
  seen = last.get("epochs_by_language", {})
  tables = (first["loss_by_language"], losses, bits, seen, planned)
  tokens = last["tokens_by_language"]
  number = corpus_report.number
  rows = [
    [code, *(number(of.get(code), 2) for of in tables)]
    for code in sorted(losses, key=lambda code: -tokens.get(code, 0))
  ]
  for name, codes in groups.members(losses, "joshi_class").items():
    rows.append(
      [
        f"class {name}, mean of {len(codes)}",
        *(number(groups.macro_average(of, codes), 2) for of in tables),
      ]
    )
  return rows


def _planned_epochs(output: str) -> dict[str, float]:
  """Language -> epochs of the whole run, where the plan is by language."""
  path = os.path.join(output, "mixture.json")
  if not os.path.exists(path):
    return {}
  with open(path, encoding="utf-8") as f:
    plan = json.load(f)
  rows = plan["rows"] if isinstance(plan, dict) else []
  return {row["language"]: row["expected_epochs"] for row in rows}


def _headline(
  output: str, lines: Sequence[Mapping], found: Mapping
) -> list[tuple]:
  last = lines[-1]
  shown = [("steps made", f"{last['step'] + 1:,}")]
  if alignment_report.is_alignment(last):
    shown += alignment_report.headline(output, lines)
  else:
    shown.append(("loss, nats a token", f"{last['loss']:.3f}"))
  if "tokens_per_second" in last:
    shown.append(("tokens a second", f"{last['tokens_per_second']:,.0f}"))
    flops = last["model_flops_per_second"]
    shown.append(("model FLOPs a second", f"{flops:.3g}"))
  if "mfu" in last:
    shown.append(("model FLOPs utilization", f"{last['mfu']:.1%}"))
  if found:
    shown.append(("goodput", f"{found['goodput']:.1%}"))
  skipped = sum(line.get("skipped", 0) for line in lines)
  if any("skipped" in line for line in lines):
    shown.append(("spikes skipped", f"{skipped:,.0f}"))
  return shown


def write_report(
  *, output: str, path: str, refresh_seconds: int | None
) -> dict[str, Any]:
  """Writes the page.

  Args:
    output: output directory of a training job.
    path: HTML file to write.
    refresh_seconds: after which a browser loads the page again; None for never.

  Returns:
    The last line of metrics.

  Raises:
    FileNotFoundError: if the run has written no line yet.
  """
  metrics_path = os.path.join(output, loop.METRICS_FILE)
  lines = metrics.read(metrics_path) if os.path.exists(metrics_path) else []
  if not lines:
    raise FileNotFoundError(
      f"no line in {metrics_path} yet; the first comes after LOG_PERIOD steps, "
      "or correct the path"
    )
  found = {}
  if os.path.exists(os.path.join(output, ledger.FILE)):
    found = ledger.summarize(ledger.read(output))
  sections = []
  if "loss_by_language" in lines[-1]:
    last = lines[-1]
    tokens = last.get("tokens_by_language", {})
    largest = sorted(
      last["loss_by_language"], key=lambda code: -tokens.get(code, 0)
    )
    sections.append(
      {
        "title": "Loss by language",
        "text": "Nats a token depend on the tokenizer: compare a language with "
        "itself. Bits a byte do not. Of the training batches of a line.",
        "figure": figures.loss_curves(lines, largest),
        "columns": [
          "language",
          "first line",
          "last line",
          "bits/byte",
          "epochs so far",
          "epochs planned",
        ],
        "rows": _language_rows(lines[0], last, _planned_epochs(output))
        if tokens
        else [],
        "open": True,
      }
    )
  is_alignment = alignment_report.is_alignment(lines[-1])
  if is_alignment:
    sections += alignment_report.sections(output, lines)
  sections.append(
    {
      "title": "Gradient and learning rate",
      "text": "Means over the steps of a line.",
      "figure": figures.gradient_and_rate(lines),
    }
  )
  sections.append(
    {
      "title": "Time of a step",
      "text": "What the host waits for; the device computes meanwhile."
      + (" Rollouts count as data." if is_alignment else ""),
      "figure": figures.step_time(lines),
    }
  )
  if found:
    sections.append(
      {
        "title": "Goodput",
        "text": "lost: made again after an interruption; init: restoring or "
        "creating the state; interrupted: no process was there.",
        "figure": figures.goodput(found),
      }
    )
  if is_alignment:
    sections += alignment_report.samples_sections(output)
  corpus_report.render(
    path,
    title=f"Training: {os.path.basename(os.path.normpath(output))}",
    headline=_headline(output, lines, found),
    sections=sections,
    refresh_seconds=refresh_seconds,
  )
  return lines[-1]
