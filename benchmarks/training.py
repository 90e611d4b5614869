"""Training beside t5x as whole processes: `mlm.run pretrain`, `t5x.train`.

    PYTHONPATH=t5x:airio:jestimator taskset -c 0 \
      python -m benchmarks.training --tokens=DIR --tokenizer=DIR

mT5-small in float32, 250,112 pieces, 300,176,768 parameters; span corruption on
the same token cache (job cache_tokens) with the same rates, mT5's Adafactor,
no evaluation and no checkpoint before the last step; t5x runs its own network
with gin/t5x's mixture (benchmarks/training_t5x.gin). On one core, the sides in
turn, nothing compiled before. Both write a line when a step's loss is there;
this process looks 20 times a second, and ends the other after --steps lines.

A round gives the seconds from the start of the process to its first line, and
those between lines, by the clock and of the processor, which other work on the
machine disturbs less; of ours also the share of a step spent waiting for data.
Prints medians as JSON with the load of the machine.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import in_turn

_ROOT = pathlib.Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")
_NUM_STEPS = 10_000  # of the run; it is ended before


def _ours(options, folder: str) -> tuple[list[str], str]:
  command = [
    *("-m", "mlm.run", "pretrain"),
    "--gin_file=gin/experiments/mt5_tiny/pretrain.gin",
    "--gin_file=gin/models/mt5_small.gin",
    f"--gin.TOKENS={options.tokens}",
    f"--gin.TOKENIZER={options.tokenizer}",
    f"--gin.OUTPUT={folder}/run",
    "--gin.ACTIVATION_DTYPE=float32",
    "--gin.REMAT=none",
    f"--gin.TRAIN_STEPS={_NUM_STEPS}",
    f"--gin.CHECKPOINT_PERIOD={_NUM_STEPS}",
    "--gin.LOG_PERIOD=1",
    f"--gin.BATCH_SIZE={options.batch_size}",
    f"--gin.INPUTS_LENGTH={options.inputs_length}",
  ]
  return command, f"{folder}/run/metrics.jsonl"


def _t5x(options, folder: str) -> tuple[list[str], str]:
  lines = f"{folder}/lines.jsonl"
  command = [
    *("-m", "t5x.train"),
    "--gin_file=benchmarks/training_t5x.gin",
    f"--gin.TOKENS={options.tokens!r}",
    f"--gin.TOKENIZER={options.tokenizer!r}",
    f"--gin.MODEL_DIR={folder + '/run'!r}",
    f"--gin.SECONDS_FILE={lines!r}",
    f"--gin.TRAIN_STEPS={_NUM_STEPS}",
    f"--gin.BATCH_SIZE={options.batch_size}",
    f"--gin.INPUTS_LENGTH={options.inputs_length}",
  ]
  return command, lines


_SIDES = {"ours": _ours, "t5x": _t5x}


def _cpu_seconds(pid: int) -> float:
  fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  return sum(map(int, fields.split()[11:13])) / _TICKS


def _time(options) -> dict:
  """Runs a side; seconds of its first and its further lines."""
  with tempfile.TemporaryDirectory() as folder:
    command, path = _SIDES[options.side](options, folder)
    with open(f"{folder}/output", "w+") as output:
      started = time.monotonic()
      child = subprocess.Popen(
        [sys.executable, *command],
        cwd=_ROOT,
        stdout=output,
        stderr=subprocess.STDOUT,
      )
      try:
        moments = []
        while len(moments) <= options.steps:
          if child.poll() is not None:
            output.seek(0)
            raise RuntimeError(
              f"{options.side} ended:\n{output.read()[-3000:]}"
            )
          made = 0
          if os.path.exists(path):
            made = pathlib.Path(path).read_bytes().count(b"\n")
          if made > len(moments) + 1:
            raise RuntimeError(
              f"{options.side} wrote lines faster than we look"
            )
          if made > len(moments):
            now = time.monotonic() - started
            moments.append((now, _cpu_seconds(child.pid), os.getloadavg()[0]))
          time.sleep(0.05)
      finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    lines = [json.loads(x) for x in pathlib.Path(path).read_text().splitlines()]
  clock, cpu, load = zip(*moments)
  found = {
    "first": clock[0],
    "cpu_first": cpu[0],
    "seconds": [b - a for a, b in zip(clock, clock[1:])],
    "cpu_seconds": [b - a for a, b in zip(cpu, cpu[1:])],
    "losses": [line["loss"] for line in lines],
    "load": list(load),
  }
  if "data_seconds" in lines[0]:  # the first waits for the first batch
    of_steps = lines[1 : options.steps + 1]
    found["data_share"] = sum(x["data_seconds"] for x in of_steps) / sum(
      x["seconds"] for x in of_steps
    )
  return found


def _summary(runs: dict[str, list[dict]]) -> dict:
  def each(side, name):
    values = [run[name] for run in runs[side]]
    return sum(values, []) if isinstance(values[0], list) else values

  def spread(name):
    found = {}
    for side in runs:
      of = each(side, name)
      found[side] = [
        round(x, 3) for x in (statistics.median(of), min(of), max(of))
      ]
    return found

  def ratio(name):
    ours, theirs = (statistics.median(each(x, name)) for x in ("ours", "t5x"))
    return round(theirs / ours, 2)

  names = ("first", "cpu_first", "seconds", "cpu_seconds")
  return {
    **{name: spread(name) for name in names},
    "ratio": {name: ratio(name) for name in names},
    "data_share": [round(x, 5) for x in each("ours", "data_share")],
    "losses": {
      side: [round(x, 3) for x in of[0]["losses"]] for side, of in runs.items()
    },
    "load": spread("load"),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--tokens", required=True)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--batch_size", type=int, default=2)
  parser.add_argument("--inputs_length", type=int, default=128)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--side", choices=_SIDES)
  options = parser.parse_args()
  if options.side:
    print(json.dumps(_time(options)))
    return
  here = [sys.executable, "-m", "benchmarks.training"]
  runs = in_turn.run(
    dict.fromkeys(_SIDES, here), sys.argv[1:], rounds=options.rounds
  )
  print(json.dumps(_summary(runs)))


if __name__ == "__main__":
  main()
