"""Times the backends, forward and backward, on the devices of this process.

  python -m kernels.linear_cross_entropy.bench --shape=quickstart --repeats=5

Prints one row a backend: the best of the repeats, the FLOPs that the reference
would need (6 N D V) per second of it, and the compiler's temporary memory.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import api, shapes


def _loss(backend, hidden, kernel, targets):
  statistics = api.token_statistics(hidden, kernel, targets, backend=backend)
  return jnp.mean(statistics.logsumexp - statistics.target_logit)


def measure(
  shape: shapes.Shape, *, backend: str, repeats: int
) -> tuple[float, int]:
  """Seconds of one forward and backward pass, and bytes of temporaries."""
  dtype = jnp.dtype(shape.dtype)
  keys = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(keys[0], (shape.num_tokens, shape.width), dtype)
  kernel = jax.random.normal(keys[1], (shape.width, shape.vocab_size), dtype)
  targets = jax.random.randint(keys[2], hidden.shape[:1], 0, shape.vocab_size)
  gradient = jax.value_and_grad(_loss, argnums=(1, 2))
  compiled = (
    jax.jit(gradient, static_argnums=0)
    .lower(backend, hidden, kernel, targets)
    .compile()
  )
  seconds = []
  for _ in range(repeats + 1):  # the first is a warm-up
    start = time.perf_counter()
    jax.block_until_ready(compiled(hidden, kernel, targets))
    seconds.append(time.perf_counter() - start)
  return min(seconds[1:]), compiled.memory_analysis().temp_size_in_bytes


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  by_name = {shape.name: shape for shape in shapes.SHAPES}
  parser.add_argument("--shape", choices=sorted(by_name), required=True)
  parser.add_argument("--repeats", type=int, required=True)
  flags = parser.parse_args()
  if flags.repeats < 1:
    parser.error(f"--repeats {flags.repeats} must be at least 1")
  shape = by_name[flags.shape]
  flops = 6 * shape.num_tokens * shape.width * shape.vocab_size
  print(f"{shape} on {jax.devices()[0].device_kind}")
  print(f"{'backend':<12}{'ms':>10}{'GFLOP/s':>10}{'temporaries MiB':>18}")
  for backend in api.BACKENDS:
    if backend == "pallas_tpu" and jax.default_backend() != "tpu":
      print(f"{backend:<12}{'needs a TPU':>20}")
      continue
    seconds, temporaries = measure(
      shape, backend=backend, repeats=flags.repeats
    )
    print(
      f"{backend:<12}{seconds * 1e3:>10.1f}{flops / seconds / 1e9:>10.1f}"
      f"{temporaries / 2**20:>18.1f}"
    )


if __name__ == "__main__":
  main()
