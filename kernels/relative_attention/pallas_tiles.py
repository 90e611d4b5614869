"""What the forward and the backward kernel share: sizes, masks, blocks.

Letters as in `pallas_tpu`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.relative_attention import buckets

LOWEST = -1e30  # stands for -inf, of which a difference would be NaN

# Contractions: rows by columns, columns by columns, rows by rows.
NN = (((1,), (0,)), ((), ()))
NT = (((1,), (1,)), ((), ()))
TN = (((0,), (0,)), ((), ()))


def dot(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


@dataclasses.dataclass(frozen=True)
class Setup:
  """What both kernels share.

  Attributes:
    head_width: H.
    num_lanes: of a program, G x H.
    block: queries and keys of a tile, a power of two.
    first: least offset of a tile, in blocks; all before it have its bias.
    last: largest; 0 where causal.
    num_buckets: of the table.
    max_distance: of `buckets.bucket`.
    is_causal: whether a query sees no slot after its own.
    vmem_limit_bytes: on-chip memory that a kernel may use.
    interpret: whether, or how, to emulate the kernels.
  """

  head_width: int
  num_lanes: int
  block: int
  first: int
  last: int
  num_buckets: int
  max_distance: int
  is_causal: bool
  vmem_limit_bytes: int
  interpret: bool | pltpu.InterpretParams

  @property
  def num_tiles(self) -> int:
    return self.last - self.first + 1

  def bucket_ids(self) -> np.ndarray:
    """int32 [tiles, 2 x block]: entry e of a window is for queries e on.

    A query that is e slots on from a key, in slots of their tiles; from block
    on, e stands for e - 2 x block.
    """
    e = np.arange(2 * self.block)
    queries_on = np.where(e < self.block, e, e - 2 * self.block)
    offsets = np.arange(self.first, self.last + 1)[:, None] * self.block
    return buckets.bucket(
      offsets - queries_on,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
      is_causal=self.is_causal,
    )

  def heads(self) -> list[tuple[int, slice]]:
    """Each head of a program, and its lanes."""
    H = self.head_width
    return [(g, slice(g * H, (g + 1) * H)) for g in range(self.num_lanes // H)]

  def call(self, kernel, *operands, num_flops, num_bytes, num_exps, **kwargs):
    return pl.pallas_call(
      functools.partial(kernel, self),
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", *["arbitrary"] * 3),
        vmem_limit_bytes=self.vmem_limit_bytes,
      ),
      cost_estimate=pl.CostEstimate(
        flops=num_flops, bytes_accessed=num_bytes, transcendentals=num_exps
      ),
      interpret=self.interpret,
      **kwargs,
    )(*operands)


def mask(setup, key_segments, query_segments, offset):
  """bool [keys, queries]."""
  is_same = key_segments == query_segments
  if not setup.is_causal:
    return is_same
  rows = jax.lax.broadcasted_iota(jnp.int32, is_same.shape, 0)
  columns = jax.lax.broadcasted_iota(jnp.int32, is_same.shape, 1)
  return is_same & (rows + offset * setup.block <= columns)


def tile(setup, offset):
  """Which tile of the bias an offset in blocks has."""
  return jnp.clip(offset, setup.first, setup.last) - setup.first


def specs(setup, query_axis: int, key_axis: int) -> dict[str, pl.BlockSpec]:
  """By what a block holds; the axes are those of the grid."""
  b, lanes = setup.block, setup.num_lanes
  num_heads = len(setup.heads())
  return {
    "windows": pl.BlockSpec(
      (1, num_heads * setup.num_tiles, 2 * b), lambda *at: (at[0], 0, 0)
    ),
    "query segments": pl.BlockSpec(
      (1, 1, b), lambda *at: (at[1], 0, at[query_axis])
    ),
    "key segments": pl.BlockSpec(
      (1, b, 1), lambda *at: (at[1], at[key_axis], 0)
    ),
    "queries": pl.BlockSpec(
      (1, b, lanes), lambda *at: (at[1], at[query_axis], at[0])
    ),
    "keys": pl.BlockSpec(
      (1, b, lanes), lambda *at: (at[1], at[key_axis], at[0])
    ),
    "query numbers": pl.BlockSpec(
      (1, 1, num_heads, b), lambda *at: (at[1], at[0], 0, at[query_axis])
    ),
  }
