"""Figures of the plan; each takes plain records and returns SVG text."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib import ticker

from mlm.evaluation import figures

_HATCHES = ("", "//", "..", "xx", "\\\\", "++")
_COLOURS = (
  figures.BLUE,
  figures.ORANGE,
  figures.GREEN,
  "#CC79A7",
  "#56B4E9",
  figures.GREY,
)


def stacked(
  parts: Mapping[str, Mapping[str, float]],
  marks: Mapping[str, Mapping[str, float]],
  *,
  xlabel: str,
  title: str,
) -> str:
  """Bars of parts, one a run, and marks on them.

  Args:
    parts: run -> part -> amount; the same parts for all.
    marks: name of a mark -> run -> amount.
    xlabel: with the unit.
    title: one sentence of conclusion.
  """
  names = list(parts)
  figure, axes = plt.subplots(figsize=(8, 1.4 + 0.42 * len(names)))
  left = [0.0] * len(names)
  for number, part in enumerate(next(iter(parts.values()))):
    widths = [parts[name][part] for name in names]
    if not any(widths):
      continue
    axes.barh(
      range(len(names)),
      widths,
      left=left,
      color=_COLOURS[number % len(_COLOURS)],
      hatch=_HATCHES[number % len(_HATCHES)],
      edgecolor="white",
      label=part,
    )
    left = [a + b for a, b in zip(left, widths)]
  for (name, of), marker in zip(marks.items(), "D|^"):
    shown = [(of[n], i) for i, n in enumerate(names) if of.get(n) is not None]
    if shown:
      axes.scatter(
        *zip(*shown), color="black", marker=marker, s=60, zorder=3, label=name
      )
  axes.set_yticks(range(len(names)), names, fontsize=8)
  axes.invert_yaxis()
  axes.set_xlabel(xlabel)
  axes.set_title(title, fontsize=10, loc="left")
  axes.grid(axis="x", alpha=0.3)
  axes.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
  return figures.svg(figure)


def epochs(
  tokens: Mapping[str, float],
  of_rule: Mapping[str, Mapping[str, float]],
  *,
  title: str,
) -> str:
  """Epochs of each language by published size, one marker a rule; log scales."""
  figure, axes = plt.subplots(figsize=(8, 4.5))
  for (name, of), marker, colour in zip(of_rule.items(), "oD^v", _COLOURS):
    axes.scatter(
      [tokens[c] for c in of],
      list(of.values()),
      marker=marker,
      s=18,
      color=colour,
      alpha=0.8,
      label=name,
    )
  axes.set_xscale("log")
  axes.set_yscale("log")
  axes.axhline(1, color="black", linewidth=0.8)
  axes.margins(y=0.15)
  axes.set_xlabel("mC4 tokens of the language, published (log scale)")
  axes.set_ylabel("expected epochs (log scale)")
  axes.set_title(title, fontsize=10, loc="left")
  axes.grid(alpha=0.3)
  axes.legend(fontsize=7)
  for code in (max(tokens, key=tokens.get), min(tokens, key=tokens.get)):
    axes.annotate(
      code,
      (tokens[code], next(iter(of_rule.values()))[code]),
      textcoords="offset points",
      xytext=(-14, 8),
      fontsize=7,
    )
  return figures.svg(figure)


def lines(
  series: Mapping[str, Sequence[tuple[float, float]]],
  *,
  xlabel: str,
  ylabel: str,
  title: str,
) -> str:
  """Curves with points, both axes on log scales."""
  figure, axes = plt.subplots(figsize=(8, 4))
  styles = zip(series.items(), "oD^v", ("-", "--", ":", "-."), _COLOURS)
  for (name, points), marker, line, colour in styles:
    axes.plot(
      *zip(*points), marker=marker, linestyle=line, color=colour, label=name
    )
  axes.set_xscale("log")
  axes.set_yscale("log")
  numbers = sorted({x for points in series.values() for x, _ in points})
  axes.set_xticks(numbers, [f"{x:,.0f}" for x in numbers])
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.yaxis.set_major_formatter("{x:,.0f}")
  axes.yaxis.set_minor_formatter("{x:,.0f}")
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  axes.set_title(title, fontsize=10, loc="left")
  axes.grid(alpha=0.3, which="both")
  axes.legend(fontsize=7)
  return figures.svg(figure)
