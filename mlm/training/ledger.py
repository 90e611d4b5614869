"""Where the time of a run went, over all its processes: the goodput ledger.

OUTPUT/ledger.jsonl is only ever added to, by the first process of a run:

  {"event": "begin", "time"}          a job begins, before it restores or creates a state
  {"event": "ready", "time", "step"}  the first step to be made is about to start
  {"event": "window", "time", "step", "seconds", "data_seconds", "compile_seconds", "checkpoint_seconds"}
  {"event": "end", "time", "checkpoint_seconds"}  waited for the last checkpoint and left

Times are seconds of the clock. A window is one line of metrics.jsonl, which
unlike this is cut back when a run goes on from an earlier checkpoint: a window
here whose step is made again is lost time.
"""

import json
import os
import time
from collections.abc import Sequence
from typing import Any

FILE = "ledger.jsonl"
PARTS = ("data", "compile", "checkpoint")


def append(output: str | os.PathLike, event: str, **entries: Any) -> None:
  """Adds an event with the time of now.

  Args:
    output: directory of the run, made if missing.
    event: its name.
    **entries: further ones.
  """
  os.makedirs(output, exist_ok=True)
  record = {"event": event, "time": time.time(), **entries}
  with open(os.path.join(output, FILE), "a", encoding="utf-8") as f:
    f.write(json.dumps(record) + "\n")


def read(output: str | os.PathLike) -> list[dict[str, Any]]:
  """All events; a last line cut short by a kill is left out."""
  with open(os.path.join(output, FILE), encoding="utf-8") as f:
    lines = f.readlines()
  return [json.loads(line) for line in lines if line.endswith("\n")]


def summarize(events: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Divides the time from the first event to the last, in seconds.

  Args:
    events: of `read`.

  Returns:
    {"total", "productive": steps that count, "lost": steps made again later,
    "init": from begin to ready, "data": waiting for batches, "compile": the
    first call of the step, "checkpoint": blocked by saving, "interrupted": from
    a process's last event to the begin of the next, "goodput": productive /
    total}. The parts add up to the total; parts of lost steps count as lost.
  """
  starts = [e["step"] for e in events if e["event"] == "ready"]
  found = dict.fromkeys(
    ("productive", "lost", "init", *PARTS, "interrupted"), 0.0
  )
  before, number = None, -1
  for event in events:
    elapsed = 0.0 if before is None else event["time"] - before["time"]
    kind = event["event"]
    if kind == "begin":
      found["interrupted"] += elapsed
    elif kind == "ready":
      number += 1
      found["init"] += elapsed
    elif kind == "end":
      found["checkpoint"] += event["checkpoint_seconds"]
      found["lost"] += elapsed - event["checkpoint_seconds"]
    elif any(event["step"] >= start for start in starts[number + 1 :]):
      found["lost"] += elapsed
    else:
      for part in PARTS:
        found[part] += event[f"{part}_seconds"]
      found["productive"] += elapsed - sum(
        event[f"{part}_seconds"] for part in PARTS
      )
    before = event
  total = events[-1]["time"] - events[0]["time"] if events else 0.0
  goodput = found["productive"] / total if total else 0.0
  return {"total": total, **found, "goodput": goodput}


def format_summary(found: dict[str, float]) -> str:
  """One line for people."""
  total = found["total"]
  parts = ", ".join(
    f"{name} {seconds / total:.1%}"
    for name, seconds in found.items()
    if name not in ("total", "goodput") and seconds >= 0.0005 * total > 0
  )
  return f"Goodput {found['goodput']:.1%} of {total:,.0f} s: {parts}"
