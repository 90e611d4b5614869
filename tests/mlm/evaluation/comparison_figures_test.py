"""Figures of results with gaps: no interval, no cell."""

import re

import numpy as np
import pytest

from mlm.evaluation import comparison_figures, win_rate


def _rates(clusters):
  codes = ["tha_Thai", "tha_Thai", "rus_Cyrl", "amh_Ethi"]
  return win_rate.summarize(
    np.eye(3)[[0, 1, 0, 2]],
    languages=codes,
    clusters=clusters,
    seen=["tha_Thai"],
    seed=0,
    num_resamples=50,
    confidence=0.95,
  )


def _texts(svg):
  """What is written in a figure; matplotlib keeps it in comments."""
  return re.findall(r"<!-- (.*?) -->", svg)


def test_languages_of_one_source_prompt_have_a_bar_and_no_interval():
  found = _rates(["a", "b", "a", "b"])
  assert found["by_language"]["rus_Cyrl"]["low"] is None
  texts = _texts(comparison_figures.rates(found, None, seen=["tha_Thai"]))
  assert texts.index("average of seen") < texts.index("tha_Thai")
  assert {"amh_Ethi", "rus_Cyrl", "average of unseen"} <= set(texts)


def test_a_single_source_prompt_is_told_in_the_title():
  texts = _texts(comparison_figures.rates(_rates(["a"] * 4), None, seen=None))
  assert any("[one source prompt]" in text for text in texts)


def test_matrices_share_the_order_of_targets_and_leave_gaps():
  panels = {
    "first": {("a", "x"): 51.0, ("a", "y"): 52.0, ("b", "x"): 53.0},
    "second": {("a", "y"): 61.0, ("b", "x"): 62.0},
  }
  texts = _texts(comparison_figures.matrices(panels, "title"))
  numbers = [text for text in texts if re.fullmatch(r"\d\d\.\d", text)]
  assert sorted(numbers) == ["51.0", "52.0", "53.0", "61.0", "62.0"]
  columns = [text for text in texts if text in ("x", "y")]
  assert columns == ["x", "y", "x", "y"]


@pytest.mark.parametrize(
  "low, told", [(None, "one source"), (-1.25, "[-1.2, ")]
)
def test_intervals_are_told(low, told):
  row = {"low": low, "high": 3.0}
  assert told in comparison_figures.told_interval(row)
