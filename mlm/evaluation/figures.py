"""Figures of the report; each takes plain records and returns SVG text.

Languages are sorted by size; colours are of the Okabe–Ito palette, told apart
without colour by hatch, marker or order.
"""

import io
from collections.abc import Collection, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
_BAR_INCHES = 0.2


def svg(figure) -> str:
  """The figure as SVG text, and closed; the same figure gives the same."""
  buffer = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": "figure"}):
    figure.savefig(
      buffer, format="svg", bbox_inches="tight", metadata={"Date": None}
    )
  plt.close(figure)
  text = buffer.getvalue()
  return text[text.index("<svg") :]


def by_language_axes(languages: Sequence[str], xlabel: str, title: str):
  """(figure, axes) with a row a language, the first on top."""
  height = 1.2 + _BAR_INCHES * len(languages)
  figure, axes = plt.subplots(figsize=(8, height))
  axes.set_yticks(range(len(languages)), languages, fontsize=7)
  axes.set_ylim(len(languages) - 0.4, -0.6)
  axes.set_xlabel(xlabel)
  axes.set_title(title, fontsize=10, loc="left")
  axes.grid(axis="x", alpha=0.3)
  return figure, axes


def pages_by_stage(funnel: Mapping, languages: Sequence[str]) -> str:
  """Pages of each language left after each filter, on a log scale."""
  stages = list(next(iter(funnel.values())))
  shown = [s for s in stages if any(f[s]["dropped"] for f in funnel.values())]
  colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(shown) + 1))
  before = [next(iter(funnel[c].values()))["in"] for c in languages]
  total, left = (
    sum(before),
    sum(list(funnel[c].values())[-1]["kept"] for c in languages),
  )
  figure, axes = by_language_axes(
    languages,
    "pages (log scale)",
    f"{left:,} of {total:,} pages with a language are kept",
  )
  axes.barh(range(len(languages)), before, color=colours[0], label="identified")
  for colour, stage in zip(colours[1:], shown):
    axes.barh(
      range(len(languages)),
      [funnel[c][stage]["kept"] for c in languages],
      color=colour,
      label=f"after {stage}",
    )
  axes.set_xscale("log")
  axes.set_xlim(left=0.5)  # a page has a bar, none has none
  axes.legend(fontsize=7, loc="lower right")
  return svg(figure)


def corpus_sizes(
  pages: Mapping[str, int],
  amounts: Mapping[str, int],
  languages: Sequence[str],
  unit: str,
) -> str:
  """Pages and words or tokens of each language, both on log scales.

  The figure of the mT5 paper (Xue et al. 2021, figure 1), turned.
  """
  figure, axes = by_language_axes(
    languages,
    "pages (log scale)",
    f"{sum(pages.values()):,} pages of {len(languages)} languages",
  )
  y = range(len(languages))
  bars = axes.barh(y, [pages[c] for c in languages], color=BLUE, alpha=0.6)
  axes.set_xscale("log")
  axes.set_xlim(left=0.5)
  other = axes.twiny()
  known = [(i, amounts[c]) for i, c in enumerate(languages) if amounts.get(c)]
  points = other.scatter(
    [amount for _, amount in known],
    [i for i, _ in known],
    color=ORANGE,
    marker="D",
    s=12,
  )
  other.set_xscale("log")
  other.set_xlabel(f"{unit} (log scale)")
  axes.legend([bars, points], ["pages", unit], fontsize=7, loc="lower right")
  return svg(figure)


def waterfall(funnel: Mapping, languages: Sequence[str]) -> str:
  """Shares of a language's pages: kept, then what each filter removed."""
  stages = list(next(iter(funnel.values())))
  shown = [s for s in stages if any(f[s]["dropped"] for f in funnel.values())]
  colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(shown)))
  figure, axes = by_language_axes(
    languages, "% of the language's pages", "Each page is kept or has a reason"
  )
  y = range(len(languages))

  def shares(number_of):
    return np.array(
      [
        100
        * number_of(funnel[c])
        / max(next(iter(funnel[c].values()))["in"], 1)
        for c in languages
      ]
    )

  left = shares(lambda stages: list(stages.values())[-1]["kept"])
  axes.barh(y, left, color="#dddddd", label="kept")
  for colour, stage in list(zip(colours, shown))[::-1]:
    share = shares(
      lambda stages, name=stage: sum(stages[name]["dropped"].values())
    )
    axes.barh(y, share, left=left, color=colour, label=stage)
    left = left + share
  axes.set_xlim(0, 100)
  axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
  return svg(figure)


def confusions(
  wrong: Mapping[tuple[str, str], int],
  languages: Sequence[str],
  known: Collection[str],
) -> str:
  """Pages by true language (rows) and the other language that they got.

  Args:
    wrong: {(true, named): pages}.
    languages: true ones to show.
    known: languages that could have been named; others are marked.
  """
  if not languages:
    return ""
  named = sorted({n for t, n in wrong if t in languages})
  grid = np.array([[wrong.get((t, n), 0) for n in named] for t in languages])
  size = (2 + 0.22 * len(named), 1.5 + _BAR_INCHES * len(languages))
  figure, axes = plt.subplots(figsize=size)
  axes.imshow(np.log1p(grid), cmap="Blues", aspect="auto")
  for (row, column), pages in np.ndenumerate(grid):
    if pages:
      dark = np.log1p(pages) > 0.6 * np.log1p(grid.max())
      axes.text(
        *(column, row, f"{pages}"),
        ha="center",
        va="center",
        fontsize=6,
        color="white" if dark else "black",
      )
  labels = [t if t in known else f"{t} *" for t in languages]
  axes.set_yticks(range(len(languages)), labels, fontsize=7)
  axes.set_xticks(range(len(named)), named, fontsize=7, rotation=90)
  axes.set_xlabel("named")
  axes.set_ylabel("true")
  axes.set_title("Pages under a wrong language", fontsize=10, loc="left")
  return svg(figure)


def mixture_rates(tokens: Mapping[str, int], rates: Mapping[str, float]) -> str:
  """Share of tokens in the corpus beside the share in the mixture."""
  languages = sorted(rates, key=lambda c: -tokens[c])
  total = sum(tokens[c] for c in languages)
  figure, axes = by_language_axes(
    languages,
    "share of tokens, % (log scale)",
    "Temperature sampling raises the small languages' share",
  )
  y = range(len(languages))
  axes.scatter(
    [100 * tokens[c] / total for c in languages],
    y,
    color=GREY,
    marker="o",
    label="corpus",
  )
  axes.scatter(
    [100 * rates[c] for c in languages],
    y,
    color=BLUE,
    marker="D",
    label="mixture",
  )
  axes.set_xscale("log")
  axes.legend(fontsize=7)
  return svg(figure)


def loss_curves(metrics: Sequence[Mapping], languages: Sequence[str]) -> str:
  """Training loss of all tokens and of each language, smoothed over 5 lines."""
  figure, axes = plt.subplots(figsize=(8, 4.5))
  colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(languages)))
  for colour, code in zip(colours, languages):
    points = [
      (m["step"], m["loss_by_language"][code])
      for m in metrics
      if m.get("loss_by_language", {}).get(code) is not None
    ]
    if len(points) > 5:
      steps, values = map(np.array, zip(*points))
      smooth = np.convolve(values, np.ones(5) / 5, mode="valid")
      axes.plot(steps[4:], smooth, color=colour, linewidth=0.7, alpha=0.7)
      axes.annotate(code, (steps[-1], smooth[-1]), fontsize=5, color=colour)
  axes.plot(
    [m["step"] for m in metrics],
    [m["loss"] for m in metrics],
    color="black",
    linewidth=1.5,
    label="all tokens",
  )
  first, last = metrics[0]["loss"], metrics[-1]["loss"]
  axes.set_title(
    f"Loss falls from {first:.2f} to {last:.2f} nats a token",
    fontsize=10,
    loc="left",
  )
  axes.set_xlabel("step")
  axes.set_ylabel("loss, nats a token")
  axes.grid(alpha=0.3)
  axes.legend(fontsize=7)
  return svg(figure)


def bits_per_byte(rows: Mapping[str, Mapping]) -> str:
  """Held-out bits per byte beside the unigram entropy."""
  languages = sorted(rows, key=lambda c: -rows[c]["train_tokens"])
  below = sum(
    rows[c]["bits_per_byte"] < rows[c]["unigram_entropy"] for c in languages
  )
  figure, axes = by_language_axes(
    languages,
    "bits per byte of held-out text",
    f"The model is below the unigram entropy in {below} of "
    f"{len(languages)} languages",
  )
  y = range(len(languages))
  model = [rows[c]["bits_per_byte"] for c in languages]
  unigram = [rows[c]["unigram_entropy"] for c in languages]
  axes.hlines(y, model, unigram, color=GREY, linewidth=0.8)
  axes.scatter(unigram, y, color=ORANGE, marker="|", label="unigram entropy")
  axes.scatter(model, y, color=BLUE, marker="o", s=14, label="model")
  axes.legend(fontsize=7)
  return svg(figure)


def premiums(
  of_tokenizer: Mapping[str, Mapping[str, float]], labels: Sequence[str]
) -> str:
  """Tokens of each language over English's, one marker a tokenizer."""
  worst = {
    name: max(labels, key=values.__getitem__)
    for name, values in of_tokenizer.items()
  }
  figure, axes = by_language_axes(
    labels,
    "premium: tokens over English's on the same lines (log scale)",
    "; ".join(
      f"{name}: worst {code} {of_tokenizer[name][code]:.2f}"
      for name, code in worst.items()
    ),
  )
  markers = "oDs^vP*X"
  colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(of_tokenizer)))
  for i, (name, values) in enumerate(of_tokenizer.items()):
    axes.scatter(
      [values[code] for code in labels],
      range(len(labels)),
      color=colours[i],
      marker=markers[i % len(markers)],
      s=16,
      label=name,
    )
  axes.axvline(1, color="black", linewidth=0.8)
  axes.set_xscale("log")
  axes.legend(fontsize=7)
  return svg(figure)


def overlaps(divergences: np.ndarray, labels: Sequence[str]) -> str:
  """Jensen–Shannon divergences of the tokens of languages, [n, n], as a map."""
  size = 2 + 0.09 * len(labels)
  figure, axes = plt.subplots(figsize=(size, size))
  image = axes.imshow(divergences, cmap="viridis", vmin=0, vmax=1)
  axes.set_xticks(range(len(labels)), labels, fontsize=4, rotation=90)
  axes.set_yticks(range(len(labels)), labels, fontsize=4)
  axes.set_title(
    "Divergence of the tokens used, bits: dark is shared",
    fontsize=9,
    loc="left",
  )
  figure.colorbar(image, shrink=0.6)
  return svg(figure)


def step_time(lines: Sequence[Mapping]) -> str:
  """Seconds a step by what they went to, of each line of metrics."""
  parts = {"waiting for data": "data", "compiling": "compile"}
  parts["saving"] = "checkpoint"
  steps = np.array([line["step"] for line in lines])
  num_steps = np.diff(np.concatenate([[steps[0] - _first_steps(steps)], steps]))
  seconds = np.array([line["seconds"] for line in lines]) / num_steps
  heights = [
    np.array([line[f"{part}_seconds"] for line in lines]) / num_steps
    for part in parts.values()
  ]
  rest = np.maximum(seconds - sum(heights), 0)
  figure, axes = plt.subplots(figsize=(8, 3))
  axes.stackplot(
    steps,
    rest,
    *heights,
    labels=["computing", *parts],
    colors=[BLUE, ORANGE, GREY, GREEN],
    step="pre",
  )
  share = rest.sum() / seconds.sum()
  axes.set_title(
    f"Computing takes {share:.0%} of the steps' time", fontsize=10, loc="left"
  )
  axes.set_xlabel("step")
  axes.set_ylabel("seconds a step")
  axes.set_ylim(
    0, 3 * np.median(seconds)
  )  # a step that compiled runs out of it
  axes.legend(fontsize=7, loc="upper right")
  return svg(figure)


def _first_steps(steps: np.ndarray) -> int:
  """Steps of the first line: as many as most lines have."""
  return int(np.median(np.diff(steps))) if len(steps) > 1 else int(steps[0]) + 1


def goodput(found: Mapping[str, float]) -> str:
  """Shares of a run's time, of `mlm.training.ledger.summarize`."""
  names = [
    name
    for name, seconds in found.items()
    if name not in ("total", "goodput") and seconds > 0
  ]
  figure, axes = plt.subplots(figsize=(8, 1.1))
  left = 0.0
  colours = [BLUE, ORANGE, GREEN, GREY, "#CC79A7", "#56B4E9", "#F0E442"]
  for name, colour in zip(names, colours):
    share = found[name] / found["total"]
    axes.barh(0, share, left=left, color=colour, label=f"{name} {share:.1%}")
    left += share
  axes.set_xlim(0, 1)
  axes.set_yticks([])
  axes.set_xlabel("share of the time since the run began")
  axes.set_title(
    f"{found['goodput']:.1%} of {found['total']:,.0f} s made steps that count",
    fontsize=10,
    loc="left",
  )
  axes.legend(
    fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.6)
  )
  return svg(figure)


def gradient_and_rate(lines: Sequence[Mapping]) -> str:
  """Norm of the gradient before clipping, and the learning rate."""
  figure, axes = plt.subplots(figsize=(8, 2.5))
  steps = [line["step"] for line in lines]
  axes.plot(steps, [line["grad_norm"] for line in lines], color=BLUE)
  axes.set_yscale("log")
  axes.set_xlabel("step")
  axes.set_ylabel("gradient norm (log scale)", color=BLUE)
  rates = axes.twinx()
  rates.plot(
    steps,
    [line["learning_rate"] for line in lines],
    color=ORANGE,
    linestyle="--",
  )
  rates.set_ylabel("learning rate", color=ORANGE)
  largest = max(lines, key=lambda line: line["grad_norm"])
  axes.set_title(
    f"Largest mean gradient norm {largest['grad_norm']:.3g}, up to step "
    f"{largest['step']}",
    fontsize=10,
    loc="left",
  )
  axes.grid(alpha=0.3)
  return svg(figure)
