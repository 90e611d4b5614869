"""Job: a page that follows a training run."""

import os
import time

from mlm.evaluation import training_report
from mlm.training import ledger


def watch(*, run: str, output: str, period_seconds: int) -> None:
  """Writes training.html of a run again and again until its process ends.

  Reads what the run writes and touches nothing of it, so it may start late, be
  stopped and run on another machine that sees the directory.

  Args:
    run: output directory of a training job; need not be there yet.
    output: directory for training.html.
    period_seconds: between two versions, >= 1; the page reloads itself as often.
  """
  if period_seconds < 1:
    raise ValueError(f"period_seconds {period_seconds} must be 1 or more")
  path = os.path.join(output, "training.html")
  shown = None
  while True:
    has_ended = _has_ended(run)
    try:
      last = training_report.write_report(
        output=run,
        path=path,
        refresh_seconds=None if has_ended else period_seconds,
      )
    except FileNotFoundError:
      if has_ended:
        raise
      last = None
    if last is not None and last["step"] != shown:
      shown = last["step"]
      print(f"step {shown}: loss {last['loss']:.3f}, {path}", flush=True)
    if has_ended:
      return
    time.sleep(period_seconds)


def _has_ended(run: str) -> bool:
  """Whether the last process of the run has left by itself."""
  if not os.path.exists(os.path.join(run, ledger.FILE)):
    return False
  events = ledger.read(run)
  return bool(events) and events[-1]["event"] == "end"
