"""jax's ragged paged attention, of one query a row, with blocks set.

Its own defaults are of 512 queries and more, and of the chip of this process.

It reads of HBM the pages that a row fills, in whole blocks, and each row's own
reading of pages that rows share: sharing saves memory, not bandwidth.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import ragged_paged_attention

# Slots worked on at once. A block of 16 combined heads of 128 in bfloat16 then
# takes 2 MiB, twice, of the 16 MiB that a kernel has without asking for more.
_BLOCK = 512
# Rows of a block of queries. Each row works on all of them and keeps its own.
_QUERIES = 8
_LANES = 128


def attend(
  query: jax.Array, pages: jax.Array, table: jax.Array, lengths: jax.Array
) -> jax.Array:
  """As `reference.attend`, for one TPU core.

  Args:
    query: [N, n, H].
    pages: [P, S, 2 K, H].
    table: int32 [N, M].
    lengths: int32 [N], at least 1.

  Raises:
    ValueError: if H is not a multiple of 128, or the heads do not fill tiles.
  """
  N, _, H = query.shape
  if H % _LANES:
    raise ValueError(
      f"head width {H} must be a multiple of {_LANES} for 'ragged_tpu'; choose "
      "'reference'"
    )
  return ragged_paged_attention.ragged_paged_attention(
    query,
    pages,
    lengths,
    table,
    jnp.arange(N + 1, dtype=jnp.int32),
    jnp.array([N], jnp.int32),
    sm_scale=H**-0.5,
    num_kv_pages_per_block=min(
      max(_BLOCK // pages.shape[1], 1), table.shape[1]
    ),
    num_queries_per_block=min(_QUERIES, N),
  )
