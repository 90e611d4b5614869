"""Flash attention with T5's relative-position bias, for TPU.

The bias of a tile depends on how far its keys are from its queries, in tiles,
and not on which tile it is. A head has few such tiles: one for each offset up
to max_distance, and one for everything further on each side (`pallas_bias`).
They are made in on-chip memory once a head, from windows of its table, and the
gradients by the bias are added up there once a head: the bias costs one
addition a logit, and the table's gradient another.

Tiles are [keys, queries], so that what belongs to a query is a row. A program
takes as many heads as fill the 128 lanes, so that of mT5's nothing is padded.
Heads that do not fill them are padded with zeros, in width and in number.

| computes         | FLOPs           | streamed from HBM, bytes | grid               |
|------------------|-----------------|--------------------------|--------------------|
| output           | 4 B N T S H     | 2 e B N T S H / block    | heads, rows, T, S  |
| all gradients    | 10 B N T S H    | 2 e B N T S H / block    | heads, rows, S, T  |

Half of it where causal: tiles that no query sees are passed over. In HBM,
besides inputs and outputs: two float32 numbers for each query and head, and
windows of 2 x block numbers for each of the offsets. On-chip memory:
`blocks.vmem_bytes`; the gradient of a head's queries is held whole.

Letters: B rows, T query length, S key length, N heads, H head width, G heads of
one program.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from kernels.relative_attention import (
  blocks,
  pallas_backward,
  pallas_forward,
  pallas_tiles,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _relative_attention(setup, *operands):
  return pallas_forward.forward(setup, *operands)[0]


_relative_attention.defvjp(pallas_forward.forward, pallas_backward.backward)


def relative_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  table: jax.Array,
  query_segments: jax.Array,
  key_segments: jax.Array,
  *,
  max_distance: int,
  is_causal: bool,
  block: int,
  vmem_limit_bytes: int,
  interpret: bool | pltpu.InterpretParams,
) -> jax.Array:
  """As `reference.relative_attention`, for one TPU core.

  Args:
    query: [B, T, N, H].
    key: [B, S, N, H].
    value: [B, S, N, H].
    table: float32 [N, buckets].
    query_segments: int32 [B, T], at least 0.
    key_segments: int32 [B, S], at least 0.
    max_distance: of `buckets.bucket`.
    is_causal: whether a query sees no slot after its own.
    block: of `blocks.choose_block`.
    vmem_limit_bytes: on-chip memory that a kernel may use.
    interpret: True or InterpretParams to emulate the kernels anywhere.

  Returns:
    [B, T, N, H] in the dtype of value.

  Raises:
    ValueError: if the dtypes differ.
  """
  B, T, N, H = query.shape
  if not query.dtype == key.dtype == value.dtype:
    raise ValueError(
      f"query is {query.dtype}, key {key.dtype} and value {value.dtype}; cast "
      "them to one dtype"
    )
  num_heads, width = blocks.filling(num_heads=N, head_width=H)
  num_tiles = blocks.num_bias_tiles(block, max_distance, is_causal)
  last = 0 if is_causal else num_tiles // 2
  setup = pallas_tiles.Setup(
    head_width=width,
    num_lanes=max(blocks.LANES, width),
    block=block,
    first=last - num_tiles + 1,
    last=last,
    num_buckets=table.shape[1],
    max_distance=max_distance,
    is_causal=is_causal,
    vmem_limit_bytes=vmem_limit_bytes,
    interpret=interpret,
  )

  def side_by_side(x):
    widths = ((0, -x.shape[1] % block), (0, num_heads - N), (0, width - H))
    padded = jnp.pad(x, ((0, 0), *widths))
    return padded.reshape(B, -1, num_heads * width)

  def padded(segments, fill):
    widths = ((0, 0), (0, -segments.shape[1] % block))
    return jnp.pad(segments, widths, constant_values=fill)

  output = _relative_attention(
    setup,
    side_by_side(query),
    side_by_side(key),
    side_by_side(value),
    jnp.pad(table.astype(jnp.float32), ((0, num_heads - N), (0, 0))),
    # No two of these are equal, so that padding sees nothing and is not seen.
    padded(query_segments, -1),
    padded(key_segments, -2),
  )
  return output.reshape(B, -1, num_heads, width)[:, :T, :N, :H]


def relative_attention_on_chip(
  query: jax.Array,
  *operands: jax.Array,
  max_distance: int,
  is_causal: bool,
  vmem_capacity_bytes: int,
) -> jax.Array:
  """`relative_attention` with the tiles that suit a core's on-chip memory."""
  limit = int(blocks.VMEM_SHARE * vmem_capacity_bytes)
  *_, T, N, H = query.shape
  block = blocks.choose_block(
    vmem_limit_bytes=limit,
    length=T,
    head_width=blocks.filling(num_heads=N, head_width=H)[1],
    itemsize=query.dtype.itemsize,
    max_distance=max_distance,
    is_causal=is_causal,
  )
  return relative_attention(
    query,
    *operands,
    max_distance=max_distance,
    is_causal=is_causal,
    block=block,
    vmem_limit_bytes=limit,
    interpret=False,
  )


def relative_attention_on_this_chip(
  *operands: jax.Array, max_distance: int, is_causal: bool
) -> jax.Array:
  """`relative_attention` with the tiles that suit the TPU of this process."""
  return relative_attention_on_chip(
    *operands,
    max_distance=max_distance,
    is_causal=is_causal,
    vmem_capacity_bytes=pltpu.get_tpu_info().vmem_capacity_bytes,
  )
