"""Flash attention with T5's relative-position bias, for TPU.

The bias of a tile depends on how far its keys are from its queries, in tiles,
and not on which tile it is. A head has few such tiles, `tiles` below: one for
each offset up to max_distance, and one for everything further on each side.
They are made in on-chip memory once a head, from windows of its table, and the
gradients by the bias are added up there once a head: the bias costs one
addition a logit, and the table's gradient another.

Tiles are [keys, queries], so that what belongs to a query is a row. A program
takes as many heads as fill the 128 lanes, so that nothing is padded to them.

| computes         | FLOPs           | streamed from HBM, bytes | grid               |
|------------------|-----------------|--------------------------|--------------------|
| output           | 4 B N T S H     | 2 e B N T S H / block    | heads, rows, T, S  |
| all gradients    | 10 B N T S H    | 2 e B N T S H / block    | heads, rows, S, T  |

Half of it where causal: tiles that no query sees are passed over. In HBM,
besides inputs and outputs: two float32 numbers for each query and head, and
windows of 2 x block numbers for each of the offsets. On-chip memory:
`vmem_bytes`; the gradient of a head's queries is held whole.

Letters: B rows, T query length, S key length, N heads, H head width, G heads of
one program.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.relative_attention import buckets

VMEM_SHARE = 0.9  # of the chip's; the compiler keeps some for itself
_LANES = 128
_LOWEST = -1e30  # stands for -inf, of which a difference would be NaN
_BLOCKS = (512, 256, 128)

# Contractions: rows by columns, columns by columns, rows by rows.
_NN = (((1,), (0,)), ((), ()))
_NT = (((1,), (1,)), ((), ()))
_TN = (((0,), (0,)), ((), ()))


def _dot(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


@dataclasses.dataclass(frozen=True)
class _Setup:
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


def _make_bias(setup, windows_ref, bias_ref):
  """Expands the windows [1, G, tiles, 2 x block] to bias_ref's tiles."""
  block, num_tiles = setup.block, setup.num_tiles
  for g, _ in setup.heads():
    for tile in range(num_tiles):
      window = windows_ref[0, g, tile : tile + 1, :]
      whole = _skewed(jnp.broadcast_to(window, (block, 2 * block)), 1)
      bias_ref[g * num_tiles + tile] = whole[:, :block]


def _sum_bias(setup, bias_ref, windows_ref):
  """The transpose of `_make_bias`."""
  num_tiles = setup.num_tiles
  for g, _ in setup.heads():
    for tile in range(num_tiles):
      x = bias_ref[g * num_tiles + tile]
      x = jnp.concatenate([x, jnp.zeros_like(x)], axis=1)
      windows_ref[0, g, tile : tile + 1, :] = _skewed(x, -1).sum(
        axis=0, keepdims=True
      )


def _mask(setup, key_segments, query_segments, offset):
  """bool [keys, queries]."""
  mask = key_segments == query_segments
  if not setup.is_causal:
    return mask
  rows = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 0)
  columns = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)
  return mask & (rows + offset * setup.block <= columns)


def _tile(setup, offset):
  """Which tile of the bias an offset in blocks has."""
  return jnp.clip(offset, setup.first, setup.last) - setup.first


def _forward_kernel(
  setup,
  windows_ref,  # [1, G, tiles, 2 x block] float32
  query_segments_ref,  # [1, 1, block] int32
  key_segments_ref,  # [1, block, 1] int32
  query_ref,  # [1, block, G x H]
  key_ref,  # [1, block, G x H]
  value_ref,  # [1, block, G x H]
  output_ref,  # [1, block, G x H]
  logsumexp_ref,  # [1, 1, G, block] float32
  bias_ref,  # [G x tiles, block, block] float32
  sum_ref,  # [G x H, block] float32
  running_ref,  # [2 x G, block] float32: maxima, then normalizers
):
  row, i, j = (pl.program_id(axis) for axis in (1, 2, 3))
  offset = j - i
  num_heads = len(setup.heads())

  @pl.when((row == 0) & (i == 0) & (j == 0))
  def _():
    _make_bias(setup, windows_ref, bias_ref)

  @pl.when(j == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)
    running_ref[:num_heads] = jnp.full((num_heads, setup.block), _LOWEST)
    running_ref[num_heads:] = jnp.zeros((num_heads, setup.block))

  @pl.when((offset <= 0) | (not setup.is_causal))
  def _():
    mask = _mask(setup, key_segments_ref[0], query_segments_ref[0], offset)
    for g, lanes in setup.heads():
      bias = bias_ref[g * setup.num_tiles + _tile(setup, offset)]
      logits = _dot(key_ref[0, :, lanes], query_ref[0, :, lanes], _NT) + bias
      logits = jnp.where(mask, logits, _LOWEST)
      before = running_ref[g : g + 1]
      maximum = jnp.maximum(before, logits.max(axis=0, keepdims=True))
      weights = jnp.where(mask, jnp.exp(logits - maximum), 0.0)
      shrink = jnp.exp(before - maximum)
      running_ref[g : g + 1] = maximum
      normalizer = slice(num_heads + g, num_heads + g + 1)
      running_ref[normalizer] = shrink * running_ref[normalizer] + weights.sum(
        axis=0, keepdims=True
      )
      value = value_ref[0, :, lanes]
      sum_ref[lanes] = shrink * sum_ref[lanes] + _dot(
        value, weights.astype(value.dtype), _TN
      )

  @pl.when(j == pl.num_programs(3) - 1)
  def _():
    normalizer = running_ref[num_heads:]
    normalizer = jnp.where(normalizer == 0, 1.0, normalizer)
    logsumexp_ref[0, 0] = running_ref[:num_heads] + jnp.log(normalizer)
    for g, lanes in setup.heads():
      sum_ref[lanes] = sum_ref[lanes] * (1 / normalizer[g : g + 1])
    output_ref[0] = sum_ref[...].T.astype(output_ref.dtype)


def _backward_kernel(
  setup,
  windows_ref,  # [1, G, tiles, 2 x block] float32
  query_segments_ref,  # [1, 1, block] int32
  key_segments_ref,  # [1, block, 1] int32
  query_ref,  # [1, block, G x H]
  key_ref,  # [1, block, G x H]
  value_ref,  # [1, block, G x H]
  cotangent_ref,  # [1, block, G x H], of the output
  logsumexp_ref,  # [1, 1, G, block] float32
  inner_ref,  # [1, 1, G, block] float32: cotangent . output
  by_query_ref,  # [1, T, G x H]
  by_key_ref,  # [1, block, G x H]
  by_value_ref,  # [1, block, G x H]
  by_windows_ref,  # [1, G, tiles, 2 x block] float32
  bias_ref,  # [G x tiles, block, block] float32
  by_bias_ref,  # [G x tiles, block, block] float32
  query_sum_ref,  # [T, G x H] float32
  key_sum_ref,  # [block, G x H] float32
  value_sum_ref,  # [block, G x H] float32
):
  row, j, i = (pl.program_id(axis) for axis in (1, 2, 3))
  offset = j - i
  is_first, is_last = (
    (j == a) & (i == b)
    for a, b in ((0, 0), (pl.num_programs(2) - 1, pl.num_programs(3) - 1))
  )

  @pl.when((row == 0) & is_first)
  def _():
    _make_bias(setup, windows_ref, bias_ref)
    by_bias_ref[...] = jnp.zeros_like(by_bias_ref)

  @pl.when(is_first)
  def _():
    query_sum_ref[...] = jnp.zeros_like(query_sum_ref)

  @pl.when(i == 0)
  def _():
    key_sum_ref[...] = jnp.zeros_like(key_sum_ref)
    value_sum_ref[...] = jnp.zeros_like(value_sum_ref)

  @pl.when((offset <= 0) | (not setup.is_causal))
  def _():
    mask = _mask(setup, key_segments_ref[0], query_segments_ref[0], offset)
    queries = pl.ds(i * setup.block, setup.block)
    for g, lanes in setup.heads():
      tile = g * setup.num_tiles + _tile(setup, offset)
      query, key = query_ref[0, :, lanes], key_ref[0, :, lanes]
      cotangent = cotangent_ref[0, :, lanes]
      logits = _dot(key, query, _NT) + bias_ref[tile]
      weights = jnp.where(
        mask, jnp.exp(logits - logsumexp_ref[0, 0, g : g + 1]), 0.0
      )
      value_sum_ref[:, lanes] += _dot(
        weights.astype(query.dtype), cotangent, _NN
      )
      by_weights = _dot(value_ref[0, :, lanes], cotangent, _NT)
      by_logits = weights * (by_weights - inner_ref[0, 0, g : g + 1])
      by_bias_ref[tile] += by_logits
      by_logits = by_logits.astype(query.dtype)
      key_sum_ref[:, lanes] += _dot(by_logits, query, _NN)
      query_sum_ref[queries, lanes] += _dot(by_logits, key, _TN)

  @pl.when(i == pl.num_programs(3) - 1)
  def _():
    by_key_ref[0] = key_sum_ref[...].astype(by_key_ref.dtype)
    by_value_ref[0] = value_sum_ref[...].astype(by_value_ref.dtype)

  @pl.when(is_last)
  def _():
    by_query_ref[0] = query_sum_ref[...].astype(by_query_ref.dtype)

  @pl.when((row == pl.num_programs(1) - 1) & is_last)
  def _():
    _sum_bias(setup, by_bias_ref, by_windows_ref)


def _specs(setup, query_axis: int, key_axis: int) -> dict[str, pl.BlockSpec]:
  """By what a block holds; the axes are those of the grid."""
  b, lanes = setup.block, setup.num_lanes
  num_heads = len(setup.heads())
  return {
    "windows": pl.BlockSpec(
      (1, num_heads, setup.num_tiles, 2 * b), lambda *at: (at[0], 0, 0, 0)
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


def _windows(setup, table):
  """[N / G, G, tiles, 2 x block] of the bias."""
  windows = table[:, setup.bucket_ids()]
  return windows.reshape(-1, len(setup.heads()), *windows.shape[1:])


def _forward(setup, query, key, value, table, query_segments, key_segments):
  (B, T, NH), S = query.shape, key.shape[1]
  num_heads = len(setup.heads())
  num_groups = NH // setup.num_lanes
  b = setup.block
  specs = _specs(setup, 2, 3)
  share = 0.5 if setup.is_causal else 1
  output, logsumexp = setup.call(
    _forward_kernel,
    _windows(setup, table),
    query_segments[:, None, :],
    key_segments[:, :, None],
    query,
    key,
    value,
    name="relative_attention_forward",
    grid=(num_groups, B, T // b, S // b),
    in_specs=[
      specs["windows"],
      specs["query segments"],
      specs["key segments"],
      specs["queries"],
      specs["keys"],
      specs["keys"],
    ],
    out_specs=[specs["queries"], specs["query numbers"]],
    out_shape=[
      jax.ShapeDtypeStruct(query.shape, value.dtype),
      jax.ShapeDtypeStruct((B, num_groups, num_heads, T), jnp.float32),
    ],
    scratch_shapes=[
      pltpu.VMEM((num_heads * setup.num_tiles, b, b), jnp.float32),
      pltpu.VMEM((setup.num_lanes, b), jnp.float32),
      pltpu.VMEM((2 * num_heads, b), jnp.float32),
    ],
    num_flops=int(share * 4 * B * T * S * NH),
    num_bytes=2 * query.nbytes + (T // b) * 2 * key.nbytes,
    num_exps=int(share * B * T * S * (NH // setup.head_width)),
  )
  residuals = query, key, value, table, query_segments, key_segments
  return output, (*residuals, output, logsumexp)


def _backward(setup, residuals, cotangent):
  query, key, value, table, query_segments, key_segments, *rest = residuals
  output, logsumexp = rest
  (B, T, NH), S = query.shape, key.shape[1]
  num_heads = len(setup.heads())
  num_groups = NH // setup.num_lanes
  b = setup.block
  inner = (cotangent.astype(jnp.float32) * output.astype(jnp.float32)).reshape(
    B, T, num_groups, num_heads, setup.head_width
  )
  inner = inner.sum(axis=-1).transpose(0, 2, 3, 1)
  specs = _specs(setup, 3, 2)
  share = 0.5 if setup.is_causal else 1
  windows = _windows(setup, table)
  tiles = pltpu.VMEM((num_heads * setup.num_tiles, b, b), jnp.float32)
  of_block = pltpu.VMEM((b, setup.num_lanes), jnp.float32)
  by_query, by_key, by_value, by_windows = setup.call(
    _backward_kernel,
    windows,
    query_segments[:, None, :],
    key_segments[:, :, None],
    query,
    key,
    value,
    cotangent,
    logsumexp,
    inner,
    name="relative_attention_backward",
    grid=(num_groups, B, S // b, T // b),
    in_specs=[
      specs["windows"],
      specs["query segments"],
      specs["key segments"],
      specs["queries"],
      specs["keys"],
      specs["keys"],
      specs["queries"],
      specs["query numbers"],
      specs["query numbers"],
    ],
    out_specs=[
      pl.BlockSpec((1, T, setup.num_lanes), lambda n, row, j, i: (row, 0, n)),
      specs["keys"],
      specs["keys"],
      specs["windows"],
    ],
    out_shape=[
      jax.ShapeDtypeStruct(query.shape, query.dtype),
      jax.ShapeDtypeStruct(key.shape, key.dtype),
      jax.ShapeDtypeStruct(value.shape, value.dtype),
      jax.ShapeDtypeStruct(windows.shape, jnp.float32),
    ],
    scratch_shapes=[
      tiles,
      tiles,
      pltpu.VMEM((T, setup.num_lanes), jnp.float32),
      of_block,
      of_block,
    ],
    num_flops=int(share * 10 * B * T * S * NH),
    num_bytes=4 * key.nbytes + (S // b) * 2 * query.nbytes,
    num_exps=int(share * B * T * S * (NH // setup.head_width)),
  )
  is_bucket = jax.nn.one_hot(setup.bucket_ids(), setup.num_buckets)
  by_table = jnp.einsum(
    "NKE,KEU->NU",
    by_windows.reshape(-1, *by_windows.shape[2:]),
    is_bucket,
    precision=jax.lax.Precision.HIGHEST,
  )
  return by_query, by_key, by_value, by_table, None, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _relative_attention(setup, *operands):
  return _forward(setup, *operands)[0]


_relative_attention.defvjp(_forward, _backward)


def num_bias_tiles(block: int, max_distance: int, is_causal: bool) -> int:
  """Tiles of the bias of a head: near offsets, and one beyond on each side."""
  reach = -(-(max_distance - 1) // block)
  return reach + 2 if is_causal else 2 * reach + 3


def vmem_bytes(
  *,
  block: int,
  length: int,
  head_width: int,
  itemsize: int,
  max_distance: int,
  is_causal: bool,
) -> int:
  """On-chip bytes of the backward kernel, an upper estimate.

  Args:
    block: queries and keys of a tile.
    length: T.
    head_width: H.
    itemsize: bytes of an element of query, key and value.
    max_distance: of the bias.
    is_causal: of the attention.
  """
  lanes = max(_LANES, head_width)
  num_tiles = num_bias_tiles(block, max_distance, is_causal)
  tiles = 2 * num_tiles * (lanes // head_width) * block**2 * 4
  queries = -(-length // block) * block * lanes * (4 + 2 * itemsize)
  # Seven float32 tiles at work, four at once twice as wide in the bias.
  return tiles + queries + 8 * block**2 * 4 + 12 * block * lanes * 4


def choose_block(*, vmem_limit_bytes: int, length: int, **sizes) -> int:
  """The largest tile that fits; the arguments are those of `vmem_bytes`.

  Raises:
    ValueError: if the smallest does not fit.
  """
  for block in _BLOCKS:
    needed = vmem_bytes(block=block, length=length, **sizes)
    if needed <= vmem_limit_bytes and (block < 2 * length or block == _LANES):
      return block
  raise ValueError(
    f"{length} queries ({sizes}) need {needed:,} bytes of on-chip memory with "
    f"the smallest tiles, but {vmem_limit_bytes:,} are there; choose backend "
    "'chunked'"
  )


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
    query: [B, T, N, H]; heads must fill the 128 lanes: H divides 128 and 128 / H
      divides N, or 128 divides H.
    key: [B, S, N, H].
    value: [B, S, N, H].
    table: float32 [N, buckets].
    query_segments: int32 [B, T], at least 0.
    key_segments: int32 [B, S], at least 0.
    max_distance: of `buckets.bucket`.
    is_causal: whether a query sees no slot after its own.
    block: of `choose_block`.
    vmem_limit_bytes: on-chip memory that a kernel may use.
    interpret: True or InterpretParams to emulate the kernels anywhere.

  Returns:
    [B, T, N, H] in the dtype of value.

  Raises:
    ValueError: if the dtypes differ or the heads do not fill the lanes.
  """
  B, T, N, H = query.shape
  S = key.shape[1]
  if not query.dtype == key.dtype == value.dtype:
    raise ValueError(
      f"query is {query.dtype}, key {key.dtype} and value {value.dtype}; cast "
      "them to one dtype"
    )
  lanes = max(_LANES, H)
  if lanes % H or lanes % _LANES or (N * H) % lanes:
    raise ValueError(
      f"{N} heads of {H} do not fill the {_LANES} lanes of a TPU; choose "
      "backend 'chunked'"
    )
  num_tiles = num_bias_tiles(block, max_distance, is_causal)
  last = 0 if is_causal else num_tiles // 2
  setup = _Setup(
    head_width=H,
    num_lanes=lanes,
    block=block,
    first=last - num_tiles + 1,
    last=last,
    num_buckets=table.shape[1],
    max_distance=max_distance,
    is_causal=is_causal,
    vmem_limit_bytes=vmem_limit_bytes,
    interpret=interpret,
  )

  def padded(x, fill):
    widths = ((0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2))
    return jnp.pad(x, widths, constant_values=fill)

  output = _relative_attention(
    setup,
    padded(query.reshape(B, T, N * H), 0),
    padded(key.reshape(B, S, N * H), 0),
    padded(value.reshape(B, S, N * H), 0),
    table.astype(jnp.float32),
    # No two of these are equal, so that padding sees nothing and is not seen.
    padded(query_segments, -1),
    padded(key_segments, -2),
  )
  return output[:, :T].reshape(B, T, N, H)


def relative_attention_on_chip(
  query: jax.Array,
  *operands: jax.Array,
  max_distance: int,
  is_causal: bool,
  vmem_capacity_bytes: int,
) -> jax.Array:
  """`relative_attention` with the tiles that suit a core's on-chip memory."""
  limit = int(VMEM_SHARE * vmem_capacity_bytes)
  block = choose_block(
    vmem_limit_bytes=limit,
    length=query.shape[1],
    head_width=query.shape[3],
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
