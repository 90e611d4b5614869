"""Aya's weightings as they were published, and what a plan tells."""

import pathlib

import numpy as np
import pytest

from mlm import run
from mlm.data import example_mixture, sampling

ROOT = pathlib.Path(__file__).parents[3]
# Üstün et al. 2024, table 3, rows available; epochs at 25M: weight x 25M / rows.
ROWS = {
  "aya_dataset": 199_500,
  "aya_templates": 18_900_000,
  "xp3x": 168_000_000,
  "data_provenance": 1_650_000,
  "aya_translations": 7_530_000,
  "sharegpt_command": 6_800_000,
}
EPOCHS = {
  "human": (31.3, 0.053, 0.030, 0.91, 1.00, 0.55),
  "translation": (12.5, 0.020, 0.022, 0.53, 1.58, 0.83),
  "template": (25.1, 0.13, 0.045, 1.52, 0.66, 0.37),
}
BUDGET = 25_000_000


class _Rows:
  """Stands for `packing.PackedRows` of examples of one length."""

  def __init__(self, task, num_examples, a_row):
    self.store = self
    self.task, self.language = task, task.rpartition(".")[2]
    self.num_examples, self.num_too_long = num_examples, 0
    # Only the sum counts: the 168 million lengths would take a gigabyte.
    self.lengths = {"targets": np.array([num_examples * 10])}
    self._a_row = a_row

  def examples_a_row(self):
    return self._a_row


def _cached(sources=ROWS):
  """Three quarters of a source are English, the rest Amharic."""
  cached = {}
  for source in sources:
    cached[f"{source}.eng_Latn"] = source, ROWS[source] * 3 // 4
    cached[f"{source}.amh_Ethi"] = source, ROWS[source] // 4
  return cached


def _sampler(monkeypatch, weighting, **bindings):
  monkeypatch.chdir(ROOT)
  names = ("TOKENIZER", "INITIAL", "EXAMPLES", "OUTPUT")
  _, kwargs, _ = run.resolve(
    "finetune",
    [
      "gin/experiments/quickstart/finetune.gin",
      f"gin/data/aya_{weighting}_heavy.gin",
    ],
    {**dict.fromkeys(names, "x"), **bindings},
  )
  return kwargs["sampler"]


def _plan(sampler, cached, a_row=lambda source: 4.0):
  rates = sampler("", cached)
  rows = {
    task: _Rows(task, cached[task][1], a_row(cached[task][0])) for task in rates
  }
  needed = sum(rate / a_row(cached[task][0]) for task, rate in rates.items())
  return example_mixture.plan(rows, rates, num_rows=round(BUDGET * needed))


@pytest.mark.parametrize("weighting", EPOCHS)
@pytest.mark.parametrize(
  "a_row", [lambda source: 4.0, lambda source: 1 + len(source) / 3]
)
def test_weightings_give_the_published_epochs(monkeypatch, weighting, a_row):
  """However many examples a row holds, here differently for each source."""
  plan = _plan(_sampler(monkeypatch, weighting), _cached(), a_row)
  for source, epochs in zip(ROWS, EPOCHS[weighting]):
    rows = [row for row in plan if row.source == source]
    expected = sum(row.expected_examples for row in rows)
    # The published numbers have two digits or three.
    assert expected / ROWS[source] == pytest.approx(epochs, rel=0.03)
    # Inside a source, in proportion to rows: all languages equally often.
    for row in rows:
      assert row.expected_epochs == pytest.approx(epochs, rel=0.03)
  assert sum(row.row_rate for row in plan) == pytest.approx(1)
  (told, _) = example_mixture.many_epochs(plan)
  assert told.startswith("aya_dataset.amh_Ethi") and "above 4" in told


def test_a_source_that_is_not_there_is_named(monkeypatch):
  cached = _cached(["aya_dataset", "aya_translations"])
  with pytest.raises(ValueError, match=r"not of \['aya_templates', .*'xp3x'\]"):
    _sampler(monkeypatch, "human")("", cached)
  name = "example_mixture.by_sources.percentages"
  mine = _sampler(
    monkeypatch,
    "human",
    **{name: "{'aya_dataset': 60, 'aya_translations': 40}"},
  )
  plan = _plan(mine, cached)
  by_source = {
    source: sum(row.rate for row in plan if row.source == source)
    for source in ("aya_dataset", "aya_translations")
  }
  assert by_source == pytest.approx(
    {"aya_dataset": 0.6, "aya_translations": 0.4}
  )


@pytest.mark.parametrize(
  "rule, english", [("uniform", 0.5), ("proportional", 0.75), (2.0, 0.634)]
)
def test_a_rule_divides_a_source_over_its_languages(rule, english):
  sampler = example_mixture.by_sources(percentages={"xp3x": 100}, rule=rule)
  rates = sampler("", _cached())
  assert rates["xp3x.eng_Latn"] == pytest.approx(english, abs=1e-3)
  assert set(rates) == {"xp3x.eng_Latn", "xp3x.amh_Ethi"}


def test_a_table_has_tasks_then_sources_then_languages(monkeypatch):
  plan = _plan(_sampler(monkeypatch, "translation"), _cached())
  table = [
    line.split("  ", 1)
    for line in example_mixture.format_plan(plan).split("\n")
  ]
  cells = {line[0]: line[1].split() for line in table if len(line) > 1}
  assert cells["aya_translations"][1:4] == ["47.5000%", "11,875,000", "1.58"]
  assert cells["aya_translations.amh_Ethi"][1] == "11.8750%"
  assert cells["eng_Latn"][1] == "75.0000%"
  assert cells["12 tasks"][2] == "25,000,000"


@pytest.mark.parametrize(
  "percentages, told",
  [
    ({"a": 50, "b": 40}, "sum to 0.9"),
    ({"a": 150, "b": -50}, "'b': -0.5"),
  ],
)
def test_percentages_that_are_none_are_named(percentages, told):
  with pytest.raises(ValueError, match=told):
    example_mixture.by_sources(percentages=percentages, rule="uniform")


def test_an_empty_language_is_named():
  sampler = example_mixture.by_sources(percentages={"a": 100}, rule="uniform")
  with pytest.raises(ValueError, match="'a.eng_Latn': 0"):
    sampler("", {"a.eng_Latn": ("a", 0)})


def test_a_mean_that_is_not_the_plan_s_is_told():
  """Rows are drawn as planned but hold half the examples of one task."""
  rates = {"a.eng_Latn": 0.5, "a.amh_Ethi": 0.5}
  plan = example_mixture.plan(
    {task: _Rows(task, 1000, 4.0) for task in rates}, rates, num_rows=10_000
  )

  def batches(a_row):
    for _ in range(40):
      tasks = np.arange(32) % 2
      segments = 1 + np.arange(8)[None] % np.array(a_row)[tasks][:, None]
      yield {
        "decoder_task_ids": np.repeat(tasks[:, None], 8, axis=1),
        "decoder_segment_ids": np.sort(segments, axis=1),
        "decoder_positions": np.int32(
          np.diff(np.sort(segments, axis=1), prepend=0, axis=1) == 0
        ),
      }

  for a_row, expected in (
    ((4, 4), []),
    ((2, 4), ["a.amh_Ethi", "a.eng_Latn"]),
  ):
    told = []
    audited = sampling.audited(
      batches(a_row),
      lambda _: {row.task: row.row_rate for row in plan},
      observe=example_mixture.rows_by_task(plan),
      unit="rows",
      period=20,
      warn=told.append,
    )
    assert len(list(audited)) == 40
    assert sorted(line.split()[0] for line in told) == expected
