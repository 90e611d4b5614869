"""Figures of a testbed, beside the published tables that they are about.

Each takes rows of `mlm.evaluation.testbed` and returns SVG text.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from mlm.evaluation import figures, testbed

_COLOURS = {"dpo": figures.ORANGE, "rloo": figures.BLUE}
_MARKERS = {"dpo": "s", "rloo": "o"}
_GROUPS = {"all": "all languages", "unseen": "unseen", "English": "English"}
# Win - loss of Dang et al. 2024, tables 3 and 4, with 23 languages and text:
# (number of languages in the mixture: one, few, all) -> method -> points.
PUBLISHED = {
  "all": {"dpo": (2.7, 4.7, 9.9), "rloo": (7.5, 18.6, 16.0)},
  "unseen": {"dpo": (2.0, 3.8), "rloo": (7.0, 19.4)},
  "English": {"dpo": (18.5, 22.0, 8.0), "rloo": (9.0, 25.0, 16.0)},
}


def outcomes(rows: Sequence[Mapping], title: str) -> str:
  """Win - loss by mixture and method, a dot a seed, beside the published.

  Args:
    rows: of `testbed.trial_rows`; the chosen trials are shown.
    title: one sentence.
  """
  shown = [row for row in rows if row["chosen"] == 1]
  mixtures = list(dict.fromkeys(row["mixture"] for row in shown))
  figure, panels = plt.subplots(
    1, len(_GROUPS), figsize=(10, 3.6), sharey=True, layout="constrained"
  )
  for axes, (group, label) in zip(panels, _GROUPS.items()):
    axes.axhline(0, color="black", linewidth=0.8)
    for i, mixture in enumerate(mixtures):
      for j, method in enumerate(testbed.METHODS):
        values = [
          row["delta"]
          for row in shown
          if (row["mixture"], row["method"], row["language"])
          == (mixture, method, group)
        ]
        if not values:
          continue
        x = i + 0.36 * (j - 0.5)
        axes.bar(
          x,
          np.mean(values),
          0.32,
          color=_COLOURS[method],
          hatch="//" if method == "dpo" else None,
          edgecolor="white",
          label=f"{method.upper()}, mean of seeds" if i == 0 else None,
        )
        axes.plot([x] * len(values), values, "k.", markersize=4)
        published = PUBLISHED[group][method]
        if i < len(published):
          axes.plot(
            x,
            published[i],
            marker="D",
            markerfacecolor="white",
            markeredgecolor="black",
            linestyle="",
            markersize=6,
            label="published (text, 1 / 5 / 23 languages)"
            if i == j == 0
            else None,
          )
    axes.set_xticks(range(len(mixtures)), mixtures)
    axes.set_xlim(-0.5, len(mixtures) - 0.5)
    axes.set_title(label, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
  panels[0].set_ylabel("win − loss against SFT (points)")
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=7,
  )
  figure.suptitle(title, fontsize=10, x=0.01, ha="left")
  return figures.svg(figure)


def frontier(
  rows: Sequence[Mapping], best_of_n: Sequence[Mapping], title: str
) -> str:
  """Hidden and learned reward against KL: DPO and RLOO by beta, best-of-n.

  Args:
    rows: of `testbed.frontier_rows`.
    best_of_n: of `testbed.best_of_n_rows`, of the same mixture; its learned
      reward is on the reward model's own scale, as the policies'.
    title: one sentence.
  """
  figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
  for axes, of_policy, of_best, label in (
    (panels[0], "gold", "gold", "hidden score (at most 2)"),
    (panels[1], "learned_reward", "proxy", "learned reward"),
  ):
    for method in testbed.METHODS:
      for number, seed in enumerate(sorted({row["seed"] for row in rows})):
        points = sorted(
          (row["kl"], row[of_policy])
          for row in rows
          if (row["seed"], row["method"]) == (seed, method)
        )
        axes.plot(
          *zip(*points),
          color=_COLOURS[method],
          marker=_MARKERS[method],
          markersize=5,
          linewidth=0.9,
          alpha=0.75,
          label=f"{method.upper()}, a line a seed" if number == 0 else None,
        )
    for number, seed in enumerate(sorted({row["seed"] for row in best_of_n})):
      points = [
        (row["kl_bound"], row[of_best])
        for row in best_of_n
        if row["seed"] == seed
      ]
      axes.plot(
        *zip(*points),
        color=figures.GREY,
        linestyle="--",
        label="best of n (KL: upper bound)" if number == 0 else None,
      )
    axes.set_xlabel("KL to SFT (nats a response)")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
  panels[0].legend(fontsize=7)
  figure.suptitle(title, fontsize=10, x=0.01, ha="left")
  return figures.svg(figure)


def accuracy_and_outcome(rows: Sequence[Mapping], title: str) -> str:
  """Reward model's accuracy in a language against what RLOO did there.

  Args:
    rows: of `testbed.reward_model_rows`; the first language is English.
    title: one sentence.
  """
  figure, panels = plt.subplots(
    1, 2, figsize=(10, 3.8), sharey=True, layout="constrained"
  )
  mixtures = list(dict.fromkeys(row["mixture"] for row in rows))
  english = rows[0]["language"]
  colours = [figures.ORANGE, figures.BLUE, figures.GREEN, figures.GREY]
  for axes, method in zip(panels, testbed.METHODS):
    for mixture, colour in zip(mixtures, colours):
      for marker, is_english, is_seen, label in (
        ("*", True, True, "English"),
        ("o", False, True, "in the mixture"),
        ("x", False, False, "unseen"),
      ):
        points = [
          (row["clean_accuracy"], row[f"delta_{method}"])
          for row in rows
          if row["mixture"] == mixture
          and (row["language"] == english) == is_english
          and bool(row["seen"]) == is_seen
          and row[f"delta_{method}"] != ""
        ]
        if points:
          axes.scatter(
            *zip(*points),
            color=colour,
            marker=marker,
            s=70 if is_english else 22,
            label=f"{mixture}, {label}",
          )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("reward model's accuracy on clear pairs (share)")
    axes.set_title(method.upper(), fontsize=9)
    axes.grid(alpha=0.3)
  panels[0].set_ylabel("win − loss against SFT (points)")
  panels[0].legend(fontsize=6)
  figure.suptitle(title, fontsize=10, x=0.01, ha="left")
  return figures.svg(figure)
