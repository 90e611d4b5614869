"""Job: the plan of a large run, as a report."""

import os
from collections.abc import Mapping, Sequence

from mlm.languages import samplers
from mlm.planning import compiled as compiled_lib
from mlm.planning import costs, report, runs, sections


def plan(
  *,
  title: str,
  planned: Sequence[runs.Run],
  scaled: Mapping[str, Sequence[runs.Run]],
  mixtures: Mapping[str, samplers.Sampler],
  max_epochs: Sequence[float | None],
  budgets: Sequence[float],
  given: costs.Assumptions,
  compiled: str,
  output: str,
) -> None:
  """Writes plan.html and plan.md: languages, memory, time, days, cost.

  Every number says whether it is published, computed, compiled or assumed.

  Args:
    title: of the report.
    planned: runs; the first is the one that the headline is about.
    scaled: family -> the same step on other numbers of chips.
    mixtures: rule -> sampler; the first is the plan's.
    max_epochs: caps to compare in the sensitivity of the mixture.
    budgets: tokens to train on; the first is the plan's.
    given: what is assumed.
    compiled: directory of compile_tpu's results; "" for none.
    output: directory.
  """
  found = compiled_lib.read_all(compiled) if compiled else []
  first, budget = planned[0], budgets[0]
  numbers = report.headline(first, found, budget, given)
  report.write(
    title=title,
    numbers=numbers,
    content=[
      report.languages_section(mixtures, budget),
      sections.models({run.name: run for run in planned}),
      sections.fits(planned, found),
      sections.step_times(planned),
      sections.against_published(),
      sections.cost_table(planned, budgets, given),
      sections.storage_table(planned, budget, given),
      report.corpora_section(given, budget),
      report.chips_section(scaled, budget, given),
      report.temperatures_section(budgets, max_epochs),
      report.sizes_section(first),
      sections.compilations(found),
      report.assumptions_section(given),
    ],
    directory=output,
  )
  for name, value in numbers:
    print(f"{name}: {value}")
  print(f"Report: {os.path.join(output, 'plan.html')} and plan.md")
