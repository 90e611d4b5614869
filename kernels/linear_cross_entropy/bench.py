"""Times the backends, forward and backward, on the devices of this process.

  python -m kernels.linear_cross_entropy.bench --shape=quickstart --repeats=5

Prints one row a backend: the best of the repeats, the FLOPs that the reference
would need (6 N D V) per second of it, and the compiler's temporary memory.
"""

import argparse
import functools

import jax
import jax.numpy as jnp

from kernels import timing
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
  gradient = jax.value_and_grad(
    functools.partial(_loss, backend), argnums=(0, 1)
  )
  return timing.measure(gradient, hidden, kernel, targets, repeats=repeats)


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
  timing.print_table(
    {
      backend: functools.partial(
        measure, shape, backend=backend, repeats=flags.repeats
      )
      for backend in api.BACKENDS
    },
    flops=flops,
  )


if __name__ == "__main__":
  main()
