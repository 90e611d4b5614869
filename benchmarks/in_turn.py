"""Sides of a comparison, each in a process of its own, in turn, on one core."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

# One thread of every library, and no accelerator.
_ENVIRONMENT = {
  "OMP_NUM_THREADS": "1",
  "JAX_PLATFORMS": "cpu",
  "CUDA_VISIBLE_DEVICES": "",
}


def run(
  commands: Mapping[str, Sequence[str]],
  arguments: Sequence[str],
  *,
  rounds: int,
) -> dict[str, list[dict]]:
  """The JSON objects that each side printed last, one a round.

  Args:
    commands: side -> the command that measures it.
    arguments: added to every command, before --side=SIDE.
    rounds: processes a side.
  """
  runs = {side: [] for side in commands}
  for _ in range(rounds):
    for side, command in commands.items():
      printed = subprocess.run(
        [*command, *arguments, f"--side={side}"],
        env={**os.environ, **_ENVIRONMENT},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
      ).stdout
      runs[side].append(json.loads(printed.splitlines()[-1]))
  return runs
