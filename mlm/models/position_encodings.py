"""Where a token stands: rotary angles, ALiBi slopes, relative buckets.

Letters: B rows, T query length, S key length, N heads, H head width.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

ROPE_SCALING = ("factor", "low", "high", "original_length")


def rotary_frequencies(
  head_dim: int, *, theta: float, scaling: Mapping[str, float] | None
) -> np.ndarray:
  """Radians a token of each rotated pair, float32 [H / 2].

  f_i = theta^(-2 i / H). With scaling, wavelengths w = 2 pi / f above
  original_length / low are stretched by factor, those below
  original_length / high are kept, and between the two
  f' = (1 - s) f / factor + s f, s = (original_length / w - low) / (high - low).

  Args:
    head_dim: H, even.
    theta: base of the wavelengths.
    scaling: None, or the four numbers of `ROPE_SCALING`; original_length in
      tokens.

  Source: Su et al. 2021 (RoFormer), section 3.4; the scaling is Llama 3.1's.
  """
  # In the order and precision of the published code: at position 8,192 one
  # unit in the last place of a frequency is a thousandth of a radian.
  exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
  frequencies = np.float32(1) / np.float32(theta) ** exponents
  if scaling is None:
    return frequencies
  factor, low, high, length = (scaling[name] for name in ROPE_SCALING)
  turns = length * frequencies / (2 * math.pi)
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return np.float32((1 - kept) * frequencies / factor + kept * frequencies)


def rotate_halves(
  x: jax.Array, positions: jax.Array, *, frequencies: np.ndarray
) -> jax.Array:
  """Rotary embedding of pairs (i, i + H/2), as in Llama's Hugging Face weights.

  Args:
    x: [B, T, heads, H].
    positions: int32 [B, T].
    frequencies: of `rotary_frequencies`.
  """
  cos, sin = _cos_sin(positions, frequencies)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def rotate_pairs(
  x: jax.Array, positions: jax.Array, *, frequencies: np.ndarray
) -> jax.Array:
  """Rotary embedding of neighbours (2i, 2i + 1), as Cohere's; else the same."""
  cos, sin = _cos_sin(positions, frequencies)
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  even, odd = pairs[..., 0], pairs[..., 1]
  rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
  return rotated.reshape(x.shape).astype(x.dtype)


def _cos_sin(positions, frequencies):
  """Float32 [B, T, 1, H/2] each."""
  angles = positions[..., None, None].astype(jnp.float32) * frequencies
  return jnp.cos(angles), jnp.sin(angles)


def alibi_slopes(num_heads: int) -> np.ndarray:
  """Slope of each head's penalty on distance, float32 [N].

  2^(-8 i / N), i = 1 … N, if N is a power of two. Otherwise those of the power
  p below, then every second slope of 2 p heads until there are N.

  Source: Press et al. 2022, section 3, and its published code for other N.
  """
  power = 2 ** int(math.log2(num_heads))
  exponents = [-8 * i / power for i in range(1, power + 1)]
  missing = num_heads - power
  exponents += [-4 * i / power for i in range(1, 2 * missing, 2)]
  return np.float32(2.0 ** np.array(exponents))


def alibi_bias(
  num_heads: int, query_slots: jax.Array, key_slots: jax.Array
) -> jax.Array:
  """slope * (key slot - query slot), float32 [N, T, S].

  Slots and positions differ by a constant within a segment, since its tokens
  are contiguous; so distances are the same, packed, padded or cached.
  """
  distance = (key_slots - query_slots[:, None]).astype(jnp.float32)
  return alibi_slopes(num_heads)[:, None, None] * distance


def relative_buckets(
  distance: jax.Array,
  *,
  is_bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> jax.Array:
  """Buckets of key - query distances: exact when near, logarithmic when far.

  Args:
    distance: int32, any shape, in tokens.
    is_bidirectional: whether later keys have half of the buckets; else they
      share bucket 0.
    num_buckets: in all.
    max_distance: from here on all distances share the last bucket.

  Returns:
    int32 of the same shape, in [0, num_buckets).

  Source: Raffel et al. 2020 (T5), section 2.1, and its published code.
  """
  offset = 0
  if is_bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance > 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  num_exact = num_buckets // 2
  edges = _bucket_edges(num_exact, num_buckets - num_exact, max_distance)
  far = num_exact + (distance[..., None] >= edges).sum(-1)
  return offset + jnp.where(distance < num_exact, distance, far)


def _bucket_edges(num_exact: int, num_far: int, max_distance: int):
  """First distance of each far bucket but the nearest, int32.

  The smallest n with log(n / num_exact) / log(max_distance / num_exact) >=
  j / num_far, in whole numbers: logarithms of 16 or 32 fall on either side.
  """
  return np.int32(
    [
      next(
        n
        for n in range(num_exact, max_distance + 1)
        if n**num_far * num_exact**j >= max_distance**j * num_exact**num_far
      )
      for j in range(1, num_far)
    ]
  )
