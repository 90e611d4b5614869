"""jax's megablox kernels, with tiles set and rows padded.

2 M D F FLOPs forward and 4 M D F backward; a tile of rows on the border of two
groups is worked on once for each. In HBM nothing besides inputs and outputs.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import megablox

# Rows, D, F: multiples of the matrix unit that fit the 16 MiB that a kernel has
# without asking for more.
_TILES = (512, 1024, 1024)
_LANES = 128


def grouped_matmul(
  rows: jax.Array,
  matrices: jax.Array,
  group_sizes: jax.Array,
  *,
  interpret: bool,
) -> jax.Array:
  """As `reference.grouped_matmul`, for one TPU core.

  Args:
    rows: [M, D].
    matrices: [E, D, F].
    group_sizes: int32 [E].
    interpret: whether to emulate the kernels.
  """
  M = rows.shape[0]
  sizes = (M, *matrices.shape[1:])
  tiles = tuple(
    min(tile, -(-size // _LANES) * _LANES) for tile, size in zip(_TILES, sizes)
  )
  # The kernels leave rows of no group as they find them.
  is_member = (jnp.arange(M) < group_sizes.sum())[:, None]
  padded = jnp.pad(jnp.where(is_member, rows, 0), ((0, -M % tiles[0]), (0, 0)))
  output = megablox.gmm(
    padded,
    matrices,
    group_sizes,
    rows.dtype,
    tiles,
    None,
    None,
    False,
    interpret,
  )
  return jnp.where(is_member, output[:M], 0)
