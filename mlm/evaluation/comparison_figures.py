"""Figures of comparisons: rates by language, and matrices of reward transfer."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from mlm.evaluation import figures


def _colour(row: Mapping) -> str:
  if row["low"] is None or row["low"] <= 0 <= row["high"]:
    return figures.GREY
  return figures.GREEN if row["low"] > 0 else figures.ORANGE


def told_interval(row: Mapping, digits: int = 1) -> str:
  """The interval as [low, high], or why there is none."""
  if row["low"] is None:
    return "[one source prompt]"
  return f"[{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def rates(
  win_rate: Mapping,
  length_controlled: Mapping | None,
  *,
  seen: Collection[str] | None,
) -> str:
  """Wins minus losses with intervals: averages on top, then languages.

  Args:
    win_rate: of `win_rate.summarize`.
    length_controlled: of `length_control.summarize`, drawn beside; or None.
    seen: languages of the policy's preferences, drawn filled, others hollow;
      None draws all filled.
  """
  averages = [n for n in ("seen", "unseen") if n in win_rate["groups"]]
  rows = {
    "average of languages": win_rate["overall"],
    **{f"average of {n}": win_rate["groups"][n] for n in averages},
    **win_rate["by_language"],
  }
  overall = win_rate["overall"]
  figure, axes = figures.by_language_axes(
    list(rows),
    "wins − losses, percentage points",
    f"{overall['delta']:+.1f} points {told_interval(overall)} on average of "
    f"{len(win_rate['by_language'])} languages",
  )
  for y, (name, row) in enumerate(rows.items()):
    is_seen = seen is None or name not in win_rate["by_language"]
    is_seen = is_seen or name in seen
    axes.barh(
      y,
      row["delta"],
      height=0.55,
      color=_colour(row) if is_seen else "none",
      edgecolor=_colour(row),
      alpha=0.8,
    )
    if row["low"] is not None:
      axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=1)
  if length_controlled is not None:
    controlled = [
      length_controlled["overall"],
      *(length_controlled["groups"][n] for n in averages),
      *(length_controlled["by_language"][c] for c in win_rate["by_language"]),
    ]
    axes.scatter(
      [row["delta"] for row in controlled],
      range(len(controlled)),
      marker="D",
      s=14,
      color=figures.BLUE,
      zorder=3,
      label="at equal length",
    )
    axes.legend(fontsize=7)
  if len(rows) > len(win_rate["by_language"]):
    axes.axhline(len(averages) + 0.5, color="black", linewidth=0.4)
  axes.axvline(0, color="black", linewidth=0.8)
  return figures.svg(figure)


def matrices(
  panels: Mapping[str, Mapping[tuple[str, str], float]], title: str
) -> str:
  """Win rates in percent by source (rows) and target (columns), side by side.

  Args:
    panels: name -> {(source, target): win rate}; cells may be missing.
    title: one sentence.
  """
  figure, all_axes = plt.subplots(
    1, len(panels), figsize=(0.6 + 3.4 * len(panels), 3.6), squeeze=False
  )
  order = dict.fromkeys(t for cells in panels.values() for _, t in cells)
  values = [v for cells in panels.values() for v in cells.values()]
  reach = max([5.0, *(abs(v - 50) for v in values)])
  for axes, (name, cells) in zip(all_axes[0], panels.items()):
    sources = list(dict.fromkeys(source for source, _ in cells))
    targets = [t for t in order if any(t == of for _, of in cells)]
    grid = np.array(
      [[cells.get((s, t), np.nan) for t in targets] for s in sources]
    )
    axes.imshow(
      grid, cmap="PuOr", vmin=50 - reach, vmax=50 + reach, aspect="auto"
    )
    for (row, column), value in np.ndenumerate(grid):
      if not np.isnan(value):
        dark = abs(value - 50) > 0.6 * reach
        axes.text(
          *(column, row, f"{value:.1f}"),
          ha="center",
          va="center",
          fontsize=7,
          color="white" if dark else "black",
        )
    axes.set_yticks(range(len(sources)), sources, fontsize=6)
    axes.set_xticks(range(len(targets)), targets, fontsize=6, rotation=90)
    axes.set_title(name, fontsize=8)
    axes.set_xlabel("target: language of the policy", fontsize=7)
  all_axes[0][0].set_ylabel("source: language of the reward", fontsize=7)
  figure.suptitle(title, fontsize=9, x=0.02, ha="left")
  figure.tight_layout()
  return figures.svg(figure)


def means(rows: Sequence[tuple[str, float, float | None, float | None]]) -> str:
  """Win rates in percent with intervals: (name, mean, low, high), one a row."""
  figure, axes = figures.by_language_axes(
    [name for name, *_ in rows],
    "win rate against the fine-tuned model, %",
    "Mean win rates; black lines are intervals, published means have none",
  )
  for y, (_, mean, low, high) in enumerate(rows):
    measured = low is not None
    axes.plot(
      mean,
      y,
      marker="o" if measured else "s",
      color=figures.BLUE if measured else figures.GREY,
    )
    if measured:
      axes.plot([low, high], [y, y], color="black", linewidth=1)
  axes.axvline(50, color="black", linewidth=0.8)
  return figures.svg(figure)
