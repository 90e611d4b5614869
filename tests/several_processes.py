"""Starts a program as several processes that find each other on this host."""

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[1]


def load(script: pathlib.Path):
  """The module of a program, which lies in no package to import from."""
  spec = importlib.util.spec_from_file_location(script.stem, script)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def run(
  arguments: Callable[[int], Sequence],
  *,
  num_processes: int,
  num_devices: int,
  timeout: float = 900,
) -> list[tuple[int, str]]:
  """Exit status and output of each process.

  Args:
    arguments: number of a process -> those of the interpreter.
    num_processes: how many.
    num_devices: virtual devices of each.
    timeout: seconds in all, on busy cores; what is left then is killed.
  """
  flags = [
    flag
    for flag in os.environ.get("XLA_FLAGS", "").split()
    if "device_count" not in flag
  ]
  flags.append(f"--xla_force_host_platform_device_count={num_devices}")
  environment = {
    **os.environ,
    "XLA_FLAGS": " ".join(flags),
    "PYTHONPATH": str(ROOT),
    "JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}",
    "JAX_NUM_PROCESSES": str(num_processes),
  }
  started = [
    subprocess.Popen(
      [sys.executable, *map(str, arguments(number))],
      env={**environment, "JAX_PROCESS_ID": str(number)},
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for number in range(num_processes)
  ]
  try:
    told = [process.communicate(timeout=timeout)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  return [(p.returncode, text) for p, text in zip(started, told)]
