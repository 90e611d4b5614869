"""Figures of a run of RLOO or PPO; each takes plain records, returns SVG."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from mlm.evaluation import figures

_COLUMNS = 2
_SMOOTHED = 5  # lines of metrics


def _smooth(values: Sequence[float]) -> np.ndarray:
  width = max(1, min(_SMOOTHED, len(values) // 2))
  return np.convolve(values, np.ones(width) / width, mode="valid")


def curves(
  lines: Sequence[Mapping],
  panels: Mapping[str, str],
  *,
  languages: Sequence[str],
  title: str,
) -> str:
  """Metrics over steps, a panel each: all responses, and thinly each language.

  Languages are means of five lines in which they occur, or of half of them.

  Args:
    lines: of metrics.
    panels: metric -> what the panel is called, with its unit; metrics that the
      last line lacks are left out.
    languages: codes to draw.
    title: one sentence.
  """
  shown = {name: label for name, label in panels.items() if name in lines[-1]}
  num_rows = math.ceil(len(shown) / _COLUMNS)
  figure, grid = plt.subplots(
    num_rows,
    min(_COLUMNS, len(shown)),
    figsize=(8, 0.6 + 1.8 * num_rows),
    sharex=True,
    squeeze=False,
  )
  colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(languages)))
  steps = [line["step"] for line in lines]
  for axes, (name, label) in zip(grid.flat, shown.items()):
    for colour, code in zip(colours, languages):
      points = [
        (line["step"], line[f"{name}_by_language"][code])
        for line in lines
        if line.get(f"{name}_by_language", {}).get(code) is not None
      ]
      if len(points) < 2:
        continue
      at, values = zip(*points)
      smooth = _smooth(values)
      at = at[len(at) - len(smooth) :]
      axes.plot(at, smooth, color=colour, linewidth=0.6, alpha=0.6)
    axes.plot(
      steps,
      [line[name] for line in lines],
      color="black",
      linewidth=1.2,
      marker="." if len(lines) == 1 else None,
    )
    axes.set_title(label, fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
  for axes in grid.flat[len(shown) :]:
    axes.set_visible(False)
  for axes in grid.flat[max(len(shown) - _COLUMNS, 0) : len(shown)]:
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("step", fontsize=8)
  figure.suptitle(title, fontsize=10, x=0.02, ha="left")
  figure.tight_layout()
  return figures.svg(figure)


def accuracies(
  rows: Mapping[str, Mapping], *, at_chance: Sequence[str], confidence: float
) -> str:
  """Accuracy of a reward model by language, with intervals, beside a half.

  Args:
    rows: code -> row of `mlm.alignment.calibration.summarize`.
    at_chance: codes that the gate named.
    confidence: of the intervals.
  """
  known = len(rows) - len([code for code in rows if code in at_chance])
  figure, axes = figures.by_language_axes(
    list(rows),
    f"accuracy on held-out pairs, {confidence:.0%} intervals",
    f"The reward model is above chance in {known} of {len(rows)} languages "
    "with held-out pairs",
  )
  for y, (code, row) in enumerate(rows.items()):
    colour = figures.ORANGE if code in at_chance else figures.GREEN
    marker = "s" if code in at_chance else "o"
    axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.5)
    axes.plot(row["accuracy"], y, color=colour, marker=marker, markersize=4)
  axes.axvline(0.5, color="black", linewidth=0.8)
  axes.set_xlim(-0.02, 1.02)
  return figures.svg(figure)
