"""The plan of the 200B run as one page, in HTML and in Markdown."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from mlm.evaluation import corpus_report
from mlm.languages import registry, samplers, sets
from mlm.models import counting
from mlm.planning import (
  chips,
  costs,
  figures,
  memory,
  mixture,
  published,
  roofline,
  runs,
  sections,
)
from mlm.planning import compiled as compiled_lib

_TEMPERATURES = (1.0, 1.5, 2.0, 10 / 3, 5.0, 10.0)
_VOCABULARIES = (65_536, 131_072, 262_144, 524_288)
_LENGTHS = (2048, 4096, 8192, 16_384, 32_768)


def languages_section(
  of_rule: Mapping[str, samplers.Sampler], num_tokens: float
) -> dict:
  """The hundred, their published sizes, and shares and epochs by each rule."""
  plans = {
    name: {row.language: row for row in mixture.plan(sampler, num_tokens)}
    for name, sampler in of_rule.items()
  }
  counts = mixture.published()
  order = sorted(sets.HUNDRED, key=lambda c: -counts[c].mc4_tokens)
  rows = []
  for code in order:
    language, words = registry.get(code), counts[code].fineweb2_words
    rows.append(
      [
        code,
        language.name,
        language.joshi_class,
        f"{counts[code].mc4_tokens / 1e9:g}",
        "–" if words is None else f"{words / 1e9:.2f}",
        *(
          cell
          for plan in plans.values()
          for cell in (
            f"{plan[code].rate:.3%}",
            f"{plan[code].expected_epochs:.2f}",
          )
        ),
      ]
    )
  first = next(iter(plans))
  raised = sum(row.expected_epochs > 1.005 for row in plans[first].values())
  return {
    "title": f"A hundred languages, {num_tokens / 1e12:.2f} T tokens",
    "text": f"Rule: {mixture.RULE}. Sizes are published: mC4's in mT5's tokens, "
    "rounded by the source, taken here as if our tokenizer cut as mT5's does "
    "(assumed); FineWeb-2's in words, not used for rates. Shares and epochs are "
    "computed by mlm.languages.samplers, as pretraining does.",
    "figure": figures.epochs(
      {code: counts[code].mc4_tokens for code in order},
      {
        name: {code: plan[code].expected_epochs for code in order}
        for name, plan in plans.items()
      },
      title=f"{raised} of {len(order)} languages are read more than once "
      f"({first})",
    ),
    "columns": [
      *("code", "language", "Joshi class"),
      *("mC4, G tokens (published)", "FineWeb-2, G words (published)"),
      *(f"{name}: {what}" for name in plans for what in ("share", "epochs")),
    ],
    "rows": rows,
  }


def temperatures_section(
  budgets: Sequence[float], max_epochs: Sequence[float | None]
) -> dict:
  """How the mixture answers to temperature, caps and the budget."""
  rows = []
  for budget in budgets:
    for cap in max_epochs:
      rules = {
        f"T = {t:.3g}": samplers.by_temperature(
          temperature=t, unit="tokens", max_epochs=cap
        )
        for t in _TEMPERATURES
      }
      if cap is not None:
        rules["UniMax"] = samplers.by_unimax(max_epochs=cap)
      for name, sampler in rules.items():
        of = mixture.spread(mixture.plan(sampler, budget))
        rows.append(
          [
            name,
            "none" if cap is None else f"{cap:g}",
            f"{budget / 1e12:.2f}",
            f"{of.english_share:.1%}",
            f"{of.least_share:.4%}",
            f"{of.most_epochs:,.1f}",
            f"{of.effective_languages:.1f}",
            f"{of.repeated_share:.1%}",
          ]
        )
  return {
    "title": "Sensitivity: temperature, cap and budget",
    "text": "Computed from published sizes. Effective languages is exp of the "
    "entropy of shares: 100 if all were equal. Without a cap a temperature that "
    "raises the smallest reads it hundreds of times; with one, larger budgets go "
    "back to the large languages.",
    "figure": "",
    "columns": [
      *("rule", "largest epochs allowed", "tokens, T", "English"),
      *("smallest share", "most epochs", "effective languages"),
      "tokens read again",
    ],
    "rows": rows,
  }


def sizes_section(run: runs.Run) -> dict:
  """How parameters and FLOPs answer to vocabulary and context."""
  rows = []
  for V in _VOCABULARIES:
    config = dataclasses.replace(run.model, vocab_size=V)
    rows.append(_size_row(f"{V:,} pieces", config, run.sequence_length))
  for T in _LENGTHS:
    rows.append(_size_row(f"{T:,} tokens a row", run.model, T))
  return {
    "title": "Sensitivity: vocabulary and context",
    "text": f"Computed, for {run.name}. Logits are what a head that keeps them "
    "would hold of one row, in float32; ours holds none.",
    "figure": "",
    "columns": [
      *("variant", "parameters", "in tables of pieces"),
      *("training GFLOPs a token", "attention's part", "logits of a row, GB"),
    ],
    "rows": rows,
  }


def _size_row(name, config, length) -> list[str]:
  total = counting.num_params(config)
  training = counting.training_flops_per_token(config, length)
  width = config.num_layers * config.num_heads * config.head_dim
  return [
    name,
    f"{total:,}",
    f"{2 * config.vocab_size * config.d_model / total:.1%}",
    f"{training / 1e9:,.1f}",
    f"{6 * width * length / training:.1%}",
    f"{4 * config.vocab_size * length / 1e9:.2f}",
  ]


def chips_section(
  scaled: Mapping[str, Sequence[runs.Run]],
  budget: float,
  given: costs.Assumptions,
) -> dict:
  """The same step on more chips: time, and what of it is collectives."""
  rows, series = [], {}
  for name, family in scaled.items():
    points = []
    for run in family:
      step = roofline.of_run(run)
      factor = published.calibration(
        run.chip.name, is_mixture=run.model.moe is not None
      )
      cost = costs.of_budget(run, budget, step.estimate * factor, given)
      points.append((run.num_chips, cost.days))
      rows.append(
        [
          name,
          f"{run.num_chips:,}",
          sections.where(run),
          f"{run.tokens / run.num_chips:,.0f}",
          f"{step.estimate:.2f}",
          f"{(step.tensor + step.expert) / step.estimate:.0%}",
          f"{step.fsdp / step.compute:.2f}",
          f"{step.dcn / step.compute:.2f}",
          sections.gib(memory.of_run(run).peak),
          f"{cost.days:,.0f}",
          f"{cost.dollars / 1e6:,.1f}",
        ]
      )
    series[name] = points
  return {
    "title": "Sensitivity: chips and mesh",
    "text": f"Computed; days and cost of {budget / 1e12:.2f} T tokens by the "
    "calibrated roofline, at assumed prices. A step has the same tokens "
    "throughout, so that more chips have fewer each.",
    "figure": figures.lines(
      series,
      xlabel="chips (log scale)",
      ylabel=f"days for {budget / 1e12:.2f} T tokens (log scale)",
      title=_scaling(series),
    ),
    "columns": [
      *("family", "chips", "topology and mesh", "tokens a chip", "estimate, s"),
      *("collectives that products wait for", "fsdp / compute"),
      *("DCN / compute", "GiB a device", "days", "M $"),
    ],
    "rows": rows,
  }


def _scaling(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
  """What more chips bring the first family, as a sentence."""
  name, points = next(iter(series.items()))
  (few, many_days), (many, few_days) = min(points), max(points)
  return (
    f"{name}: {many / few:.0f} times the chips take 1/{many_days / few_days:.1f} "
    "of the days"
  )


def corpora_section(given: costs.Assumptions, num_tokens: float) -> dict:
  """What making the corpora costs, beside what it has to yield."""
  return {
    "title": "Corpora",
    "text": "Computed in docs/scale.md from measured milliseconds and bytes a "
    "record, and assumed prices and runner; 71 snapshots as mC4 had.",
    "figure": "",
    "columns": ["quantity", "value"],
    "rows": [
      ["mC4 from WET on Dataflow, k$", f"{given.corpus_dollars / 1e3:,.0f}"],
      ["hours on 2,500 workers of 4 vCPUs", f"{given.corpus_hours:,.0f}"],
      [
        "published yield of the hundred, T tokens",
        f"{_available() / 1e12:.2f}",
      ],
      ["budget, T tokens", f"{num_tokens / 1e12:.2f}"],
    ],
  }


def _available() -> int:
  counts = mixture.published()
  return sum(counts[code].mc4_tokens for code in sets.HUNDRED)


def assumptions_section(given: costs.Assumptions) -> dict:
  """Every input that nothing here computed or looked up."""
  return {
    "title": "Assumed inputs",
    "text": f"Written down {given.dated}; change them in the experiment's file.",
    "figure": "",
    "columns": ["input", "value"],
    "rows": [
      [name.replace("_", " "), str(value)]
      for name, value in dataclasses.asdict(given).items()
    ]
    + [
      [f"{chip.name}: {', '.join(chip.unconfirmed)}", "no source; see chips.py"]
      for chip in chips.CHIPS.values()
      if chip.unconfirmed
    ],
  }


def headline(
  run: runs.Run,
  found: Sequence[compiled_lib.Compiled],
  budget: float,
  given: costs.Assumptions,
) -> list[tuple[str, str]]:
  """The answer in a few numbers, each with its kind."""
  one = sections.matching(run, found)
  peak = "not compiled"
  if one is not None:
    peak = (
      f"{sections.gib(one.peak_bytes)} GiB" if one.is_accepted else "refused"
    )
  cost = costs.of_budget(run, budget, costs.seconds_at(run, given.mfu), given)
  return [
    ("parameters (computed)", f"{counting.num_params(run.model) / 1e9:.1f} B"),
    ("languages (published sizes)", f"{len(sets.HUNDRED)}"),
    ("tokens (computed: 20 a parameter)", f"{budget / 1e12:.2f} T"),
    (f"peak a device of {run.num_chips:,} (compiled)", peak),
    (f"days at MFU {given.mfu:.0%} (assumed)", f"{cost.days:,.0f}"),
    ("dollars (assumed prices)", f"{cost.dollars / 1e6:,.1f} M"),
  ]


def write(
  *,
  title: str,
  numbers: Sequence[tuple[str, str]],
  content: Sequence[dict],
  directory: str,
) -> None:
  """Writes DIRECTORY/plan.html, plan.md and its figures."""
  corpus_report.render(
    os.path.join(directory, "plan.html"),
    title=title,
    headline=numbers,
    sections=content,
    samples=[],
  )
  folder = pathlib.Path(directory)
  lines = [f"# {title}", ""]
  lines += [f"- **{value}** {name}" for name, value in numbers]
  for number, section in enumerate(content, start=1):
    lines += ["", f"## {section['title']}", "", section["text"]]
    if section["figure"]:
      name = f"figure_{number}.svg"
      (folder / name).write_text(section["figure"], encoding="utf-8")
      lines += ["", f"![{section['title']}]({name})"]
    lines += ["", *_table(section["columns"], section["rows"])]
  (folder / "plan.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(columns: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
  def line(cells):
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

  return [line(columns), "|" + "---|" * len(columns), *map(line, rows)]
