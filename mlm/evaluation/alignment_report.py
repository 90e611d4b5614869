"""Sections of the page of a run of RLOO or PPO, by language.

They show what the run has written: lines of metrics, gate.json, watched.jsonl,
samples.jsonl, and results of `compare` in a directory of the run.
"""

import glob
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mlm.alignment import (
  calibration,
  rewards,
  samples,
  scoring,
  stop_rules,
)
from mlm.evaluation import (
  alignment_figures,
  comparison_report,
  corpus_report,
)
from mlm.languages import groups, registry
from mlm.training import metrics

_WINDOW = 5  # lines of metrics, whose mean is the first or the last value

# Metric -> (heading, format of a number).
_DISTANCE = {
  "kl": ("KL, nats a response", ".2f"),
  "kl_per_token": ("KL, nats a token", ".3f"),
  "entropy_per_token": ("entropy, nats a token", ".2f"),
  "logprob_gap": ("largest log-prob gap, nats", ".0e"),
  "clipped": ("clipped", ".3f"),
}
_RESPONSES = {
  "length": ("tokens", ".1f"),
  "truncated": ("truncated", ".2f"),
  "equal_groups": ("dead groups", ".2f"),
}


def is_alignment(line: Mapping) -> bool:
  """Whether a line of metrics is of RLOO or PPO."""
  return "reward_by_language" in line and "kl_by_language" in line


def _with_truncated(lines: Sequence[Mapping]) -> list[dict]:
  """The lines, with the share of responses that did not end."""
  return [
    {
      **line,
      "truncated": 1 - line["ended"],
      "truncated_by_language": {
        code: 1 - share for code, share in line["ended_by_language"].items()
      },
    }
    for line in lines
  ]


def _rewards(line: Mapping) -> dict[str, tuple[str, str]]:
  """The reward and its parts, those that can be checked first."""
  parts = [
    name
    for name in (*rewards.PARTS, *scoring.LEARNED)
    if f"reward_{name}" in line
  ]
  named = {f"reward_{name}": (name, ".2f") for name in parts}
  return {"reward": ("reward", ".2f"), **named}


def first_and_last(values: Sequence[float]) -> tuple[float, float]:
  """Means of the first and the last five values, of fewer if they would meet."""
  width = max(1, min(_WINDOW, len(values) // 2))
  return float(np.mean(values[:width])), float(np.mean(values[-width:]))


def _changes(
  lines: Sequence[Mapping], name: str
) -> dict[str, tuple[float, float]]:
  """First and last value of a metric: of all, each language, groups of them."""
  found = {"all responses": first_and_last([line[name] for line in lines])}
  by_language: dict[str, list[float]] = {}
  for line in lines:
    for code, value in line[f"{name}_by_language"].items():
      by_language.setdefault(code, []).append(value)
  of_code = {
    code: first_and_last(by_language[code]) for code in sorted(by_language)
  }
  found.update(of_code)
  known = [code for code in of_code if code in registry.codes()]
  for group, codes in groups.members(known, "joshi_class").items():
    found[f"class {group}, mean of {len(codes)}"] = tuple(
      groups.macro_average({c: of_code[c][i] for c in codes}, codes)
      for i in range(2)
    )
  return found


def _table(
  lines: Sequence[Mapping], shown: Mapping[str, tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
  """Headings and rows of "first → last"."""
  shown = {name: of for name, of in shown.items() if name in lines[-1]}
  changes = {name: _changes(lines, name) for name in shown}
  rows = []
  for row in next(iter(changes.values())):
    cells = [row]
    for name, (_, form) in shown.items():
      first, last = changes[name][row]
      cells.append(f"{first:z{form}} → {last:z{form}}")
    rows.append(cells)
  return ["", *(heading for heading, _ in shown.values())], rows


def _metrics_section(lines, shown, *, title, text, told) -> dict:
  codes = sorted({c for line in lines for c in line["reward_by_language"]})
  columns, rows = _table(lines, shown)
  return {
    "title": title,
    "text": text,
    "figure": alignment_figures.curves(
      lines,
      {name: heading for name, (heading, _) in shown.items()},
      languages=codes,
      title=told,
    ),
    "columns": columns,
    "rows": rows,
    "open": True,
  }


def _metrics_sections(lines: Sequence[Mapping]) -> list[dict]:
  first_reward, reward = first_and_last([line["reward"] for line in lines])
  _, kl = first_and_last([line["kl"] for line in lines])
  _, truncated = first_and_last([line["truncated"] for line in lines])
  return [
    _metrics_section(
      lines,
      _rewards(lines[-1]),
      title="Rewards of rollouts",
      text="Of the training prompts. A cell is the mean of the first and of the "
      f"last {_WINDOW} lines of metrics in which the language occurs, or of "
      "fewer. Classes are means over their languages. In figures, black is all "
      "responses, each thin line a language.",
      told=f"Reward goes from {first_reward:.2f} to {reward:.2f}",
    ),
    _metrics_section(
      lines,
      _DISTANCE,
      title="Distance from the reference",
      text="KL is the log ratio to the reference, summed over a response, and "
      "by its tokens. Entropy is the policy's, of whole distributions, where it "
      "sampled. The gap is between log-probabilities by decoding and by the "
      "training forward. Clipped: the share without a gradient for it.",
      told=f"The policy is {kl:.2f} nats a response from the reference",
    ),
    _metrics_section(
      lines,
      _RESPONSES,
      title="Responses of rollouts",
      text="Truncated: without an end when the tokens ran out. Dead groups: "
      "all responses to a prompt have one reward, from which nothing is learned.",
      told=f"{truncated:.0%} of responses are truncated at last",
    ),
  ]


def _gate_section(gate: Mapping) -> dict:
  rows, at_chance = gate["by_language"], gate["at_chance"]
  number = corpus_report.number
  cells = []
  for code in sorted({*rows, *at_chance}):
    row = rows.get(code)
    told = "not known to be above chance" if code in at_chance else "passes"
    interval = f"[{row['low']:.2f}, {row['high']:.2f}]" if row else "–"
    cells.append(
      [
        code,
        number(row["pairs"] if row else None),
        number(row["accuracy"] if row else None, 2),
        interval,
        told,
      ]
    )
  what = (
    "an implicit reward, which has no held-out pairs"
    if gate["part"] == "implicit"
    else "a reward model"
  )
  figure = ""
  if rows:
    figure = alignment_figures.accuracies(
      dict(sorted(rows.items())),
      at_chance=list(at_chance),
      confidence=gate["confidence"],
    )
  return {
    "title": "What the reward is worth",
    "text": f"The learned part is {what}. Measured before the run; where its "
    "interval does not lie above a half, the gate was told to "
    f"{gate['chance_gate']}.",
    "figure": figure,
    "columns": ["language", "pairs", "accuracy", "interval", "gate"],
    "rows": cells,
    "open": True,
  }


def _stop_section(line: Mapping) -> dict:
  rows = []
  for code, row in line["look"].items():
    (verified, now), proxy = row["verified"], row["proxy"]
    rows.append(
      [
        code,
        corpus_report.number(row["steps"]),
        f"{verified:.3f} → {now:.3f}",
        f"{verified - now:+.3f} ± {row['error']:.3f}",
        f"{row['limit']:.3f}",
        f"{proxy[0]:.3f} → {proxy[1]:.3f}",
        "stops the run" if row["stops"] else "goes on",
      ]
    )
  return {
    "title": "Stop rule",
    "text": f"What was seen before step {line['step']}. The run stops where the "
    "fall of what can be checked is above its limit while the learned reward "
    "rises; from the first window to the last of so many steps, ± a standard "
    "error.",
    "figure": "",
    "columns": [
      "language",
      "steps",
      "verifiable reward",
      "fall",
      "limit",
      "learned reward",
      "the rule",
    ],
    "rows": sorted(rows, key=lambda row: (row[0] != stop_rules.TOGETHER, row)),
    "open": True,
  }


def _response_caption(number: int, response: Mapping) -> str:
  parts = ", ".join(f"{n} {v:.2f}" for n, v in response["parts"].items())
  end = "ended" if response["ended"] else "truncated"
  return (
    f"response {number}: reward {response['reward']:.2f} ({parts}) · KL "
    f"{response['kl']:.2f} · {response['length']} tokens, {end}"
  )


def samples_sections(output: str) -> list[dict]:
  """The first and the latest prompt of each language, where some were kept."""
  by_language: dict[str, list[Mapping]] = {}
  for line in _read(output, samples.FILE):
    by_language.setdefault(line["language"], []).append(line)
  examples = {}
  for code, of_code in sorted(by_language.items()):
    shown = of_code if len(of_code) == 1 else [of_code[0], of_code[-1]]
    tag = corpus_report.bcp47(code)
    examples[code] = []
    for line in shown:
      prompt = line["prompt"]
      turns = [prompt] if isinstance(prompt, str) else prompt
      texts = [(f"step {line['step']}, prompt", "\n\n".join(turns))]
      texts += [
        (_response_caption(number, response), response["text"])
        for number, response in enumerate(line["responses"], start=1)
      ]
      examples[code] += [
        {"caption": caption, "tag": tag, "text": text}
        for caption, text in texts
      ]
  section = {
    "title": "Samples",
    "text": "The first and the latest prompt of each language that was kept, "
    "with all its responses. The others are in samples.jsonl.",
    "figure": "",
    "examples": examples,
    "open": True,
  }
  return [section] if examples else []


def _comparison_sections(output: str) -> list[dict]:
  """Of each `compare` whose output lies in the run's."""
  sections = []
  for path in sorted(glob.glob(os.path.join(output, "*", "results.json"))):
    with open(path, encoding="utf-8") as f:
      results = json.load(f)
    if not {"a", "b", "judge", "win_rate"} <= set(results):
      continue
    sections.append(
      comparison_report.rates_section(
        results,
        title=f"Win rates: {os.path.basename(os.path.dirname(path))}",
        text=f"{results['a']} against {results['b']}, judged by "
        f"{results['judge']}.",
        seen=None,
      )
    )
  return sections


def _read(output: str, name: str) -> list[dict]:
  path = os.path.join(output, name)
  return metrics.read(path) if os.path.exists(path) else []


def _looks(output: str) -> list[dict]:
  return [x for x in _read(output, stop_rules.FILE) if "look" in x]


def headline(output: str, lines: Sequence[Mapping]) -> list[tuple[str, str]]:
  """What the page begins with."""
  shown = [
    ("mean reward", "reward", 2),
    ("KL, nats a response", "kl", 2),
    ("entropy, nats a token", "entropy_per_token", 2),
    ("tokens a response", "length", 1),
    ("truncated", "truncated", 2),
  ]
  lines, found = _with_truncated(lines), []
  looks = _looks(output)
  if looks and (stopped := stop_rules.told(looks[-1]["look"])):
    found.append(
      (f"stopped before step {looks[-1]['step']}", ", ".join(stopped))
    )
  for label, name, digits in shown:
    if name in lines[-1]:
      first, last = first_and_last([line[name] for line in lines])
      found.append((label, f"{first:z.{digits}f} → {last:z.{digits}f}"))
  return found


def sections(output: str, lines: Sequence[Mapping]) -> list[dict]:
  """Sections of `corpus_report.render`, without samples.

  Args:
    output: output directory of align_rloo or align_ppo.
    lines: its metrics.
  """
  found = _metrics_sections(_with_truncated(lines))
  gate = os.path.join(output, calibration.GATE_FILE)
  if os.path.exists(gate):
    with open(gate, encoding="utf-8") as f:
      found.append(_gate_section(json.load(f)))
  if looks := _looks(output):
    found.append(_stop_section(looks[-1]))
  return found + _comparison_sections(output)
