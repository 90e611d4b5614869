"""Job: the HTML report of a whole run."""

import os

from mlm.evaluation import report as report_lib


def report(
  *,
  run: str,
  truth: str,
  output: str,
  temperature: float,
  tokens_per_step: int,
) -> None:
  """Writes report.html: corpus, mixture, losses, rewards, win rates, samples.

  Args:
    run: directory that holds the outputs of all jobs.
    truth: table of url and language, or "" if the truth is not known.
    output: directory for report.html.
    temperature: T of the pretraining mixture.
    tokens_per_step: of pretraining.
  """
  path = os.path.join(output, "report.html")
  report_lib.write_report(
    run=run,
    truth=truth,
    temperature=temperature,
    tokens_per_step=tokens_per_step,
    path=path,
  )
  print(f"Report: {path}")
