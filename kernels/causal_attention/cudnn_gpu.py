"""cuDNN's attention by way of jax.nn, for GPUs; never run or measured here.

It passes over what is above the diagonal. jax.nn hands it no segments but a
mask, of B T T numbers in the dtype of query, which all heads share. By its
documentation it takes float16 and bfloat16 and H a multiple of 8 up to 128, and
says so where it cannot.
"""

import jax

from kernels.causal_attention import reference


def causal_attention(
  query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array
) -> jax.Array:
  """As `reference.causal_attention`."""
  return reference.causal_attention(
    query, key, value, segments, implementation="cudnn"
  )
