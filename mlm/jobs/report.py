"""Job: the HTML report of a whole run."""

import os

from mlm.evaluation import report as report_lib


def report(*, run: str, truth: str, output: str) -> None:
  """Writes report.html: corpus, mixture, losses, rewards, win rates, samples.

  Args:
    run: directory that holds the outputs of all jobs.
    truth: table of url and language, or "" if the truth is not known.
    output: directory for report.html.
  """
  path = os.path.join(output, "report.html")
  report_lib.write_report(run=run, truth=truth, path=path)
  print(f"Report: {path}")
