"""Times a function on the devices of this process."""

import time
from collections.abc import Callable

import jax


def measure(
  function: Callable, *arguments: jax.Array, repeats: int
) -> tuple[float, int]:
  """Best seconds of a call, jitted, and bytes of the compiler's temporaries."""
  compiled = jax.jit(function).lower(*arguments).compile()
  seconds = []
  for _ in range(repeats + 1):  # the first is a warm-up
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
  return min(seconds[1:]), compiled.memory_analysis().temp_size_in_bytes


def print_table(
  measures: dict[str, Callable[[], tuple[float, int]]], *, flops: float
) -> None:
  """One row a backend: ms, the reference's FLOPs a second, temporaries.

  Args:
    measures: by backend, what gives the two numbers of `measure`; of a backend
      with _tpu in its name only where there is one.
    flops: of the reference, forward and backward.
  """
  print(f"{'backend':<12}{'ms':>10}{'GFLOP/s':>10}{'temporaries MiB':>18}")
  for backend, measured in measures.items():
    if backend.endswith("_tpu") and jax.default_backend() != "tpu":
      print(f"{backend:<12}{'needs a TPU':>20}")
      continue
    seconds, temporaries = measured()
    print(
      f"{backend:<12}{seconds * 1e3:>10.1f}{flops / seconds / 1e9:>10.1f}"
      f"{temporaries / 2**20:>18.1f}"
    )
