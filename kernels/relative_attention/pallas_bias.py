"""The bias in on-chip memory: a table to windows to tiles, and back.

Letters as in `pallas_tpu`.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.relative_attention import pallas_tiles


def windows(setup: pallas_tiles.Setup, table: jax.Array) -> jax.Array:
  """[N / G, G x tiles, 2 x block] of the bias."""
  of_tiles = table[:, setup.bucket_ids()]
  num_tiles = len(setup.heads()) * setup.num_tiles
  return of_tiles.reshape(-1, num_tiles, of_tiles.shape[2])


def table_gradient(setup: pallas_tiles.Setup, by_windows: jax.Array):
  """Float32 [N, buckets]: the transpose of `windows`."""
  is_bucket = jax.nn.one_hot(setup.bucket_ids(), setup.num_buckets)
  return jnp.einsum(
    "NKE,KEU->NU",
    by_windows.reshape(-1, *is_bucket.shape[:2]),
    is_bucket,
    precision=jax.lax.Precision.HIGHEST,
  )


def _skewed(x: jax.Array, sign: int) -> jax.Array:
  """Turns row r of [block, 2 x block] right by r, or left where sign is -1."""
  rows = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
  bit = 1
  while bit < x.shape[0]:
    shift = bit if sign > 0 else x.shape[1] - bit
    turned = pltpu.roll(x, shift, axis=1)
    x = jnp.where(jnp.bitwise_and(rows, bit) == 0, x, turned)
    bit *= 2
  return x


def make_tiles(windows_ref, bias_ref):
  """Expands windows [1, G x tiles, 2 x block] to bias_ref's tiles."""
  num_tiles, block, _ = bias_ref.shape

  def of_tile(tile, carry):
    window = windows_ref[0, pl.ds(tile, 1), :]
    whole = _skewed(jnp.broadcast_to(window, (block, 2 * block)), 1)
    bias_ref[tile] = whole[:, :block]
    return carry

  jax.lax.fori_loop(0, num_tiles, of_tile, None)


def sum_tiles(bias_ref, windows_ref):
  """The transpose of `make_tiles`."""

  def of_tile(tile, carry):
    x = bias_ref[tile]
    x = jnp.concatenate([x, jnp.zeros_like(x)], axis=1)
    total = _skewed(x, -1).sum(axis=0, keepdims=True)
    windows_ref[0, pl.ds(tile, 1), :] = total
    return carry

  jax.lax.fori_loop(0, bias_ref.shape[0], of_tile, None)
