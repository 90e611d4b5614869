"""How many examples of each source and language fine-tuning will see.

A rate is a share of EXAMPLES, as in seqio and as in the Aya weightings. The
schedule draws rows, and a row of one task holds more examples than one of
another: a task's share of rows is its rate over its mean examples a row.
"""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlm.data import packing
from mlm.languages import rates as rates_lib

MANY_EPOCHS = 4  # Muennighoff et al. 2023: repeats beyond are worth little

# (cache directory, {task: (source, examples)}) -> {task: share of examples}.
Sampler = Callable[[str, Mapping[str, tuple[str, int]]], dict[str, float]]


def by_sources(
  *, percentages: Mapping[str, float], rule: str | float
) -> Sampler:
  """Percentages of the examples by source, then a rule over its languages.

  Args:
    percentages: source -> per cent; they sum to 100. Cached sources that are
      not named are not drawn.
    rule: of `rates.nested_rates`: "uniform", "proportional", or a temperature.

  Raises:
    ValueError: if percentages are not positive or do not sum to 100, or a
      source is not in the cache.

  Source: Üstün et al. 2024 (Aya model), section 2.5, for source before data.
  """
  shares = {source: of / 100 for source, of in percentages.items()}
  rates_lib.check_shares(shares)
  return functools.partial(_by_sources, shares, rule)


def _by_sources(shares, rule, cache, cached):
  sources = {source for source, _ in cached.values()}
  missing = sorted(shares.keys() - sources)
  if missing:
    raise ValueError(
      f"{cache!r} has examples of the sources {sorted(sources)}, not of "
      f"{missing}; cache them, or write percentages of those that you have, 100 "
      "in all"
    )
  num = collections.defaultdict(dict)
  for task, (source, examples) in cached.items():
    if source in shares:
      num[source][task] = examples
  nested = rates_lib.nested_rates(shares, num, rule=rule)
  return {task: rate for (_, task), rate in nested.items()}


def by_mixture(*, name: str) -> Sampler:
  """The rates that seqio had for a mixture when cache_mixture cached it.

  Raises:
    FileNotFoundError: if the mixture or a task of it is not in the cache.
  """
  return functools.partial(_by_mixture, name)


def _by_mixture(name, cache, cached):
  rates = read_rates(cache, name)
  missing = sorted(rates.keys() - cached.keys())
  if missing:
    raise FileNotFoundError(
      f"{cache!r} has not the examples of {missing}, tasks of {name}; run "
      "cache_mixture again"
    )
  return rates


def _rates_path(cache: str, name: str) -> str:
  return os.path.join(cache, f"{name}.rates.json")


def write_rates(cache: str, name: str, rates: Mapping[str, float]) -> None:
  """Writes the rates of a mixture, task -> share of the examples."""
  rates_lib.check_shares(rates)
  path = _rates_path(cache, name)
  with open(f"{path}.partial", "w", encoding="utf-8") as f:
    json.dump(rates, f, indent=1)
  os.replace(f"{path}.partial", path)


def read_rates(cache: str, name: str) -> dict[str, float]:
  """Reads what `write_rates` wrote.

  Raises:
    FileNotFoundError: if the mixture is not cached.
  """
  path = _rates_path(cache, name)
  if not os.path.exists(path):
    raise FileNotFoundError(f"no {path}; run cache_mixture for {name} first")
  with open(path, encoding="utf-8") as f:
    return json.load(f)


@dataclasses.dataclass(frozen=True)
class PlanRow:
  """One task of a plan.

  Attributes:
    task: its name.
    source: the task's name without its language.
    language: code.
    examples: in the cache.
    tokens: of all features, in the cache.
    too_long: examples that are truncated.
    examples_a_row: mean.
    rate: share of the examples of the run.
    row_rate: share of its rows.
    expected_examples: of the whole run.
    expected_epochs: expected_examples / examples.
  """

  task: str
  source: str
  language: str
  examples: int
  tokens: int
  too_long: int
  examples_a_row: float
  rate: float
  row_rate: float
  expected_examples: float
  expected_epochs: float


def source_of(task: str, language: str) -> str:
  """`aya.human.swh_Latn` -> `aya.human`; a name without its language stays."""
  return task.removesuffix(f".{language}")


def plan(
  rows: Mapping[str, packing.PackedRows],
  rates: Mapping[str, float],
  *,
  num_rows: int,
) -> list[PlanRow]:
  """Plans a run.

  Args:
    rows: task -> its rows, for every task that has a rate.
    rates: task -> share of the examples; they sum to 1.
    num_rows: of the whole run: steps x batch.

  Returns:
    Rows in the order of the tasks' names.
  """
  density = {task: rows[task].examples_a_row() for task in rates}
  # Rows that one example of the run takes, of each task and in all.
  needed = {task: rate / density[task] for task, rate in rates.items()}
  examples = num_rows / sum(needed.values())
  result = []
  for task, rate in sorted(rates.items()):
    store = rows[task].store
    result.append(
      PlanRow(
        task=task,
        source=source_of(task, store.language),
        language=store.language,
        examples=store.num_examples,
        tokens=sum(int(of.sum()) for of in store.lengths.values()),
        too_long=rows[task].num_too_long,
        examples_a_row=density[task],
        rate=rate,
        row_rate=needed[task] / sum(needed.values()),
        expected_examples=rate * examples,
        expected_epochs=rate * examples / store.num_examples,
      )
    )
  return result


def many_epochs(plan_rows: Sequence[PlanRow]) -> list[str]:
  """A line for each task that a run repeats more than MANY_EPOCHS times."""
  return [
    f"{row.task}: its {row.examples:,} examples are repeated "
    f"{row.expected_epochs:.1f} times, above {MANY_EPOCHS}; give it a smaller "
    "rate, shorten the run, or add examples"
    for row in plan_rows
    if row.expected_epochs > MANY_EPOCHS
  ]


def rows_by_task(
  plan_rows: Sequence[PlanRow],
) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
  """Builds batch -> task -> rows that the batch's examples of it make up.

  Takes "decoder_task_ids" out of the batch. Rows are the examples counted, over
  the mean of a row: so a drift of the mean is seen, and tasks with long and
  short examples compare.
  """
  density = [(row.task, row.examples_a_row) for row in plan_rows]

  def observe(batch):
    ids = batch.pop("decoder_task_ids")
    starts = (batch["decoder_segment_ids"] > 0) & (
      batch["decoder_positions"] == 0
    )
    counts = np.bincount(ids[starts], minlength=len(density)).tolist()
    return {
      task: count / mean
      for count, (task, mean) in zip(counts, density)
      if count
    }

  return observe


_COLUMNS = ("examples", "rate", "expected examples", "epochs", "examples a row")


def format_plan(plan_rows: Sequence[PlanRow]) -> str:
  """The table printed before training: tasks, then sources, then languages."""
  width = 2 + max(len(row.task) for row in plan_rows)
  lines = []
  for title, key in (
    ("task", lambda row: row.task),
    ("source", lambda row: row.source),
    ("language", lambda row: row.language),
    ("all", lambda row: f"{len(plan_rows)} tasks"),
  ):
    groups = collections.defaultdict(list)
    for row in plan_rows:
      groups[key(row)].append(row)
    lines += [_line(width, title, *_COLUMNS)]
    lines += [
      _format_rows(width, name, of) for name, of in sorted(groups.items())
    ]
    lines += [""]
  too_long = sum(row.too_long for row in plan_rows)
  lines += [f"{too_long:,} examples are longer than a row and are truncated."]
  return "\n".join(lines)


def _format_rows(width: int, name: str, rows: Sequence[PlanRow]) -> str:
  examples = sum(row.examples for row in rows)
  expected = sum(row.expected_examples for row in rows)
  taken = sum(row.expected_examples / row.examples_a_row for row in rows)
  return _line(
    width,
    name,
    f"{examples:,}",
    f"{sum(row.rate for row in rows):.4%}",
    f"{expected:,.0f}",
    f"{expected / examples:.3g}",
    f"{expected / taken:.2f}",
  )


def _line(width: int, name: str, *cells: str) -> str:
  return f"{name:<{width}}" + "".join(f"{cell:>18}" for cell in cells)
