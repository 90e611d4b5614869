"""Several processes as one program: how they find, and lose, each other.

A process that dies takes the others with it: the coordination service misses
its heartbeats and ends them, each with an error that names it, within about
`HEARTBEAT_SECONDS`; a collective that notices first raises. Started again, all
of them go on from the last checkpoint.
"""

import os
from collections.abc import Mapping

import jax

HEARTBEAT_SECONDS = 60  # a longer silence means that a process is gone
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(
  *,
  heartbeat_seconds: int = HEARTBEAT_SECONDS,
  environment: Mapping[str, str] = os.environ,
) -> None:
  """Joins the other processes; before jax is asked for anything.

  The three `VARIABLES` of the environment say where process 0 listens, how many
  there are and which this is. Without them jax finds out, as it can on TPU pods,
  and where Slurm or Open MPI started the processes.

  Args:
    heartbeat_seconds: silence after which a process is taken for dead.
    environment: of this process.

  Raises:
    ValueError: if some of the variables are missing or no numbers.
    RuntimeError: if jax cannot find out, or not all processes come.
  """
  given = {name: environment[name] for name in VARIABLES if name in environment}
  options = {
    "heartbeat_timeout_seconds": heartbeat_seconds,
    "shutdown_timeout_seconds": heartbeat_seconds,
  }
  if not given:
    try:
      jax.distributed.initialize(**options)
    except ValueError as error:
      raise RuntimeError(
        f"the other processes were not found ({error}); set "
        f"{', '.join(VARIABLES)} in the environment of each"
      ) from error
    return
  numbers = [given.get(name, "") for name in VARIABLES[1:]]
  if len(given) < len(VARIABLES) or not all(map(str.isdecimal, numbers)):
    raise ValueError(
      f"the environment has {given or 'none'} of {', '.join(VARIABLES)}; each "
      "process needs all: host:port of process 0, how many processes there are, "
      "and its own number, from 0"
    )
  count, index = map(int, numbers)
  if index >= count:
    raise ValueError(
      f"JAX_PROCESS_ID {index} is not below JAX_NUM_PROCESSES {count}; number "
      "the processes from 0"
    )
  jax.distributed.initialize(
    given[VARIABLES[0]], num_processes=count, process_id=index, **options
  )


def check_joined() -> None:
  """Raises RuntimeError if devices of processes are in view that never joined.

  Those of a TPU pod see each other without `start`; yet nobody would tell them
  of a SIGTERM, of a death, or of a checkpoint that all have written.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise RuntimeError(
      f"this is one of {jax.process_count()} processes, but it has not joined "
      "the others; start each with --distributed"
    )
