"""Times the backends, forward and backward, on the devices of this process.

  python -m kernels.relative_attention.bench --shape=tiny --repeats=5

Prints one row a backend: the best of the repeats, the FLOPs that the reference
would need (12 B N T T H) per second of it, and the compiler's temporary memory.
"""

import argparse
import functools

import jax
import jax.numpy as jnp

from kernels import timing
from kernels.relative_attention import api, shapes


def measure(
  shape: shapes.Shape, *, backend: str, repeats: int
) -> tuple[float, int]:
  """Seconds of one forward and backward pass, and bytes of temporaries."""
  B, T, N, H = shape[1:5]
  keys = jax.random.split(jax.random.key(0), 4)
  query, key, value = (
    jax.random.normal(k, (B, T, N, H), shape.dtype) for k in keys[:3]
  )
  table = jax.random.normal(keys[3], (N, shapes.NUM_BUCKETS))
  segments = jnp.ones((B, T), jnp.int32)

  def total(query, key, value, table):
    output = api.relative_attention(
      query,
      key,
      value,
      table,
      segments,
      segments,
      max_distance=shapes.MAX_DISTANCE,
      is_causal=shape.is_causal,
      backend=backend,
      mesh=None,
      batch_axes=(),
      head_axes=(),
    )
    return jnp.sum(output * jnp.cos(output), dtype=jnp.float32)

  gradient = jax.value_and_grad(total, argnums=(0, 1, 2, 3))
  return timing.measure(gradient, query, key, value, table, repeats=repeats)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  by_name = {shape.name: shape for shape in shapes.SHAPES}
  parser.add_argument("--shape", choices=sorted(by_name), required=True)
  parser.add_argument("--repeats", type=int, required=True)
  flags = parser.parse_args()
  if flags.repeats < 1:
    parser.error(f"--repeats {flags.repeats} must be at least 1")
  shape = by_name[flags.shape]
  _, B, T, N, H, *_ = shape
  print(f"{shape} on {jax.devices()[0].device_kind}")
  timing.print_table(
    {
      backend: functools.partial(
        measure, shape, backend=backend, repeats=flags.repeats
      )
      for backend in api.BACKENDS
    },
    flops=12 * B * N * T * T * H,
  )


if __name__ == "__main__":
  main()
