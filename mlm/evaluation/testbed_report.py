"""Tables and figures of a testbed, written beside its results."""

import os
import statistics

from mlm.evaluation import testbed, testbed_figures, testbed_transfer

_CHOICES = (4, 16)  # best of so many beside best of all
# Nats, at which methods are compared.
_KLS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0)


def write(directory: str, *, confidence: float, num_resamples: int) -> str:
  """Writes the tables and figures of all seeds that are done.

  trials.tsv, against_sft.tsv, contrasts.tsv, reward_models.tsv, frontier.tsv,
  equal_kl.tsv and best_of_n.tsv; outcomes.svg, accuracy.svg and frontier.svg.
  With a grid of transfer, transfer.tsv, transfer_means.tsv and transfer.svg.

  Args:
    directory: output directory of align_testbed.
    confidence: of the intervals.
    num_resamples: of the bootstraps.

  Returns:
    The main lines as text.
  """
  seeds = testbed.read_seeds(directory)

  def path(name):
    return os.path.join(directory, name)

  def write_figure(name, svg):
    with open(path(name), "w", encoding="utf-8") as f:
      f.write(svg)

  trials = testbed.trial_rows(seeds)
  settings = {"confidence": confidence, "num_resamples": num_resamples}
  contrasts = testbed.contrast_rows(seeds, **settings)
  against_sft = testbed.against_sft_rows(seeds, **settings)
  models = testbed.reward_model_rows(seeds)
  testbed.write_table(path("trials.tsv"), trials)
  testbed.write_table(path("contrasts.tsv"), contrasts)
  testbed.write_table(path("against_sft.tsv"), against_sft)
  testbed.write_table(path("reward_models.tsv"), models)
  best = testbed.best_of_n_rows(seeds)
  testbed.write_table(path("best_of_n.tsv"), best)
  write_figure(
    "outcomes.svg",
    testbed_figures.outcomes(trials, _outcome_title(contrasts, len(seeds))),
  )
  lines = [f"{len(seeds)} seeds"]
  lines += [
    f"{row['contrast']}, {row['languages']}: {row['difference']:.1f} "
    f"[{row['low']:.1f}, {row['high']:.1f}], Holm p {row['p_holm']:.3f}; t "
    f"[{row['low_t']:.1f}, {row['high_t']:.1f}]"
    for row in against_sft + contrasts
  ]
  correlations = {
    method: testbed.rank_correlation(models, method)
    for method in testbed.METHODS
  }
  told = ", ".join(
    f"{rho:.2f} for {method.upper()}"
    for method, (rho, _) in correlations.items()
  )
  title = (
    f"Accuracy of the reward model against outcome: rank correlation {told}"
  )
  write_figure(
    "accuracy.svg", testbed_figures.accuracy_and_outcome(models, title)
  )
  lines.append(title)
  frontier = testbed.frontier_rows(seeds)
  equal = testbed.equal_kl_rows(frontier, _KLS, confidence=confidence)
  testbed.write_table(path("frontier.tsv"), frontier)
  testbed.write_table(path("equal_kl.tsv"), equal)
  # The one with most trials: that in which betas vary, if any.
  mixture = statistics.mode(row["mixture"] for row in frontier)
  told = "; ".join(
    f"at {row['kl']:g} nats {row['rloo_minus_dpo']:+.3f} [{row['low_t']:.3f}, "
    f"{row['high_t']:.3f}] ({row['seeds']} seeds)"
    for row in equal
    if row["mixture"] == mixture
  )
  title = f"{mixture}: RLOO − DPO in hidden score {told}"
  write_figure(
    "frontier.svg",
    testbed_figures.frontier(
      *(
        [row for row in rows if row["mixture"] == mixture]
        for rows in (frontier, best)
      ),
      title,
    ),
  )
  lines.append(title)
  if testbed_transfer.languages(seeds):
    lines += _write_transfer(path, write_figure, seeds, settings)
  return "\n".join(lines)


def _write_transfer(path, write_figure, seeds, settings) -> list[str]:
  most = testbed_transfer.num_samples(seeds)
  cells, means = [], []
  for number in [n for n in _CHOICES if n < most] + [most]:
    cells += testbed_transfer.cell_rows(seeds, number, **settings)
    means += testbed_transfer.mean_rows(seeds, number, **settings)
  testbed.write_table(path("transfer.tsv"), cells)
  testbed.write_table(path("transfer_means.tsv"), means)
  told = [
    f"{row['cells']} {row['win_rate']:.1f} [{row['low']:.1f}, "
    f"{row['high']:.1f}]"
    for row in means
    if row["samples"] == most
  ]
  title = f"Win rate, best of {most}, {len(seeds)} seeds: {'; '.join(told)}"
  shown = [row for row in cells if row["samples"] == most]
  write_figure("transfer.svg", testbed_transfer.figure(shown, title))
  return [title]


def _outcome_title(contrasts, num_seeds) -> str:
  """What stands after Holm's correction of the bootstrap and of Student's t."""
  stand = [
    f"{row['contrast']} ({row['languages']}) {row['difference']:+.0f}"
    for row in contrasts
    if row["languages"] == "all"
    and row["p_holm"] < 0.05
    and row.get("p_t_holm", 1) < 0.05
  ]
  told = "; ".join(stand) if stand else "no contrast on all languages"
  return f"{num_seeds} seeds; beyond chance by both tests: {told}"
