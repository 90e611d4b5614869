import pytest

from mlm.training import ledger


def _window(time, step, data=0.0, compile=0.0, checkpoint=0.0):
  return {
    "event": "window",
    "time": time,
    "step": step,
    "data_seconds": data,
    "compile_seconds": compile,
    "checkpoint_seconds": checkpoint,
  }


def test_time_of_a_run_that_was_killed_is_divided_by_hand():
  """Killed 7 s after step 19, of which the checkpoint holds 10 steps."""
  events = [
    {"event": "begin", "time": 100.0},
    {"event": "ready", "time": 105.0, "step": 0},
    _window(125.0, 9, data=1.0, compile=9.0),
    _window(137.0, 19, data=1.0, checkpoint=2.0),
    {"event": "begin", "time": 144.0},
    {"event": "ready", "time": 147.0, "step": 10},
    _window(165.0, 19, data=1.0, compile=7.0),
    _window(175.0, 29, data=0.5),
    {"event": "end", "time": 178.0, "checkpoint_seconds": 3.0},
  ]
  assert ledger.summarize(events) == {
    "total": 78.0,
    "productive": 10.0 + 10.0 + 9.5,
    "lost": 12.0,
    "init": 5.0 + 3.0,
    "data": 1.0 + 1.0 + 0.5,
    "compile": 16.0,
    "checkpoint": 3.0,
    "interrupted": 7.0,
    "goodput": pytest.approx(29.5 / 78),
  }


def test_what_a_failed_step_took_is_lost():
  events = [
    {"event": "begin", "time": 0.0},
    {"event": "ready", "time": 1.0, "step": 0},
    _window(5.0, 9),
    {"event": "end", "time": 9.0, "checkpoint_seconds": 0.0},
  ]
  found = ledger.summarize(events)
  assert (found["productive"], found["lost"]) == (4.0, 4.0)
  assert ledger.format_summary(found) == (
    "Goodput 44.4% of 9 s: productive 44.4%, lost 44.4%, init 11.1%"
  )


def test_events_come_back_and_a_line_cut_by_a_kill_does_not(tmp_path):
  ledger.append(tmp_path / "run", "begin")
  ledger.append(tmp_path / "run", "ready", step=3)
  with open(tmp_path / "run" / ledger.FILE, "a") as f:
    f.write('{"event": "win')
  events = ledger.read(tmp_path / "run")
  assert [(e["event"], e.get("step")) for e in events] == [
    ("begin", None),
    ("ready", 3),
  ]
  assert events[0]["time"] <= events[1]["time"]
