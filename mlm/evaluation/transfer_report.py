"""The HTML page of reward transfer, beside the published matrices."""

from collections.abc import Mapping

from mlm.evaluation import (
  comparison_figures,
  corpus_report,
  published_transfer,
  transfer,
)


def write_report(
  path: str, results: Mapping, *, judge: str, num_samples: int
) -> None:
  """Writes the page.

  Args:
    path: HTML file.
    results: of `transfer.summarize`.
    judge: what judged, in the page.
    num_samples: n of best-of-n.
  """
  number = corpus_report.number
  ours = transfer.grids_of(results)
  means = [
    (r["name"], r["mean"], r["low"], r["high"]) for r in results["means"]
  ]
  rates = [row for row in means if "−" not in row[0]]
  published = [
    (name, mean, None, None) for name, mean in transfer.published_means()
  ]
  control = results["control"]
  corpus_report.render(
    path,
    title="Rewards of one language for policies of another",
    headline=[(name, f"{mean:.1f}") for name, mean, *_ in rates[:4]],
    sections=[
      {
        "title": "Win rates by source and target",
        "text": f"Best of {num_samples} by a reward of the source against one "
        "more sample of the target's fine-tuned model; ties count half. Judge: "
        f"{judge}, asked in both orders; {results['no_verdict']:,} comparisons "
        "have no verdict. A sample that no reward chose wins "
        f"{control['win_rate']:.1f} % "
        f"{comparison_figures.told_interval(control)}.",
        "figure": comparison_figures.matrices(
          ours, "Here: win rate in percent against the fine-tuned model"
        ),
        "columns": ["grid", "source", "target", "win rate", "low", "high"]
        + ["comparisons", "source prompts"],
        "rows": [
          [row["grid"], row["source"], row["target"]]
          + [number(row[n], 1) for n in ("win_rate", "low", "high")]
          + [number(row[n]) for n in ("prompts", "clusters")]
          for row in results["cells"]
        ],
      },
      {
        "title": "Published, for reference",
        "text": "Wu et al. 2024 (arXiv 2404.12318v2), best of 64 on summaries by "
        "mT5-XL, PaLM-2-L as the judge. Other models, prompts and judge: the "
        "pattern may be compared, the levels may not.",
        "figure": comparison_figures.matrices(
          {
            "Table 6: transfer": published_transfer.TABLE_6,
            "Table 17: translate-train": published_transfer.TABLE_17,
          },
          "Wu et al. 2024: win rate in percent against the fine-tuned model",
        ),
      },
      {
        "title": "Means over cells",
        "text": f"{results['confidence']:.0%} bootstraps over source prompts, "
        "the same draws for all cells, so that differences are paired. The "
        "spread of rewards and policies of other seeds is not in them.",
        "figure": comparison_figures.means(rates + published),
        "columns": ["mean", "value", "low", "high"],
        "rows": [
          [name, *(number(x, 1) for x in values)]
          for name, *values in means + published
        ],
        "open": True,
      },
    ],
    samples=[],
  )
