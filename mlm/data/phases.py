"""The plan of a run in phases: what each draws, and what was promised before."""

import dataclasses
from collections.abc import Mapping, Sequence

from mlm.data import sampling
from mlm.data import schedule as schedule_lib
from mlm.languages import samplers


def plan_run(
  token_counts: Mapping,
  *,
  phases: Sequence[tuple[int, samplers.Sampler]],
  num_steps: int,
  step_tokens: int,
  languages: Sequence[str],
) -> tuple[list[schedule_lib.Phase], list[sampling.PlanRow]]:
  """Plans a run whose rates change at given steps.

  The rates of a phase are those of a run that it would end: a phase added
  later changes nothing before it. What earlier phases drew counts against the
  caps of a later one.

  Args:
    token_counts: `mlm.tokenizers.count.read_token_counts`.
    phases: (first step, sampler) in order, the first from step 0.
    num_steps: steps of the run, beyond the start of the last phase.
    step_tokens: tokens a step, > 0.
    languages: codes to mix, each with train data.

  Returns:
    (the phases with rates by language, rows over the whole run).

  Raises:
    ValueError: if phases are out of order or start at the end, or of
      `sampling.mixture_plan`.
  """
  starts = [start for start, _ in phases]
  schedule_lib.check_starts(starts)
  if starts[-1] >= num_steps:
    raise ValueError(
      f"the last phase starts at step {starts[-1]} of a run of {num_steps}; "
      "leave it out, or make the run longer"
    )
  planned, drawn = [], dict.fromkeys(languages, 0.0)
  for (start, sampler), end in zip(phases, [*starts[1:], num_steps]):
    rows = sampling.mixture_plan(
      token_counts,
      sampler=sampler,
      num_tokens=(num_steps - start) * step_tokens,
      languages=languages,
      drawn=drawn,
    )
    planned.append(
      schedule_lib.Phase(start, {row.language: row.rate for row in rows})
    )
    for row in rows:
      drawn[row.language] += row.rate * (end - start) * step_tokens
  return planned, [
    dataclasses.replace(
      row,
      rate=drawn[row.language] / (num_steps * step_tokens),
      expected_tokens=drawn[row.language],
      expected_epochs=drawn[row.language] / row.tokens,
    )
    for row in rows
  ]


def mean_rates(
  phases: Sequence[schedule_lib.Phase], start: int, stop: int
) -> dict[str, float]:
  """Shares of the draws from step `start` to before `stop`, by language."""
  ends = [*(phase.start_step for phase in phases[1:]), stop]
  steps = [
    max(0, min(stop, end) - max(start, phase.start_step))
    for phase, end in zip(phases, ends)
  ]
  return {
    code: sum(
      n * phase.rates[code] for n, phase in zip(steps, phases, strict=True)
    )
    / (stop - start)
    for code in phases[0].rates
  }


def check_begun(
  before: Sequence[Mapping], now: Sequence[Mapping], *, step: int
) -> None:
  """Raises unless the phases that have begun are the same as before.

  Args:
    before: {"start_step", "rates"} of each phase of the checkpoint.
    now: the same of the program.
    step: steps made; phases from it on may change.

  Raises:
    ValueError: if a phase begun differs.
  """
  begun = [[p for p in of if p["start_step"] < step] for of in (before, now)]
  if begun[0] == begun[1]:
    return
  starts = [[p["start_step"] for p in of] for of in begun]
  if starts[0] != starts[1]:
    raise ValueError(
      f"the checkpoint has made {step} steps in phases from {starts[0]}, but "
      f"now they are to be from {starts[1]}; leave these as they were and let a "
      f"further phase start at step {step} or later"
    )
  for old, new in zip(*begun):
    rates = [
      (code, old["rates"].get(code), new["rates"].get(code))
      for code in sorted({*old["rates"], *new["rates"]})
    ]
    code, was, is_now = next(r for r in rates if r[1] != r[2])
    raise ValueError(
      f"the phase from step {old['start_step']} has begun with other rates: "
      f"{code} had {was}, now {is_now}. Rates follow from the sampler, the "
      "token counts and, where there are caps, the steps of the run: set them "
      f"as they were, and let a further phase start at step {step} or later"
    )


def write_plan(
  path: str,
  *,
  phases: Sequence[schedule_lib.Phase],
  rows: Sequence[sampling.PlanRow],
  real: Mapping[str, Mapping[str, float]],
) -> None:
  """Writes a plan as JSON, whole or not at all.

  Args:
    path: of the file.
    phases: with rates by language.
    rows: over the whole run.
    real: feature -> code -> share of its positions that are no padding.
  """
  content = {
    "phases": [dataclasses.asdict(phase) for phase in phases],
    "rows": [dataclasses.asdict(row) for row in rows],
    "real": real,
  }
  sampling.write_plan(content, path)


def format_phases(phases: Sequence[schedule_lib.Phase]) -> str:
  """A table of the rates of each phase, a column a phase."""
  names = [f"from {phase.start_step:,}" for phase in phases]
  lines = ["language    " + "".join(f"{name:>18}" for name in names)]
  for code in phases[0].rates:
    cells = (f"{phase.rates[code]:>18.4%}" for phase in phases)
    lines.append(f"{code:<12}" + "".join(cells))
  return "\n".join(lines)
