"""All gradients in one pass over the tiles.

Letters as in `pallas_tpu`.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.relative_attention import pallas_bias, pallas_tiles


def _kernel(
  setup,
  windows_ref,  # [1, G x tiles, 2 x block] float32
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
  by_windows_ref,  # [1, G x tiles, 2 x block] float32
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
    pallas_bias.make_tiles(windows_ref, bias_ref)
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
    mask = pallas_tiles.mask(
      setup, key_segments_ref[0], query_segments_ref[0], offset
    )
    queries = pl.ds(i * setup.block, setup.block)
    for g, lanes in setup.heads():
      tile = g * setup.num_tiles + pallas_tiles.tile(setup, offset)
      query, key = query_ref[0, :, lanes], key_ref[0, :, lanes]
      cotangent = cotangent_ref[0, :, lanes]
      logits = pallas_tiles.dot(key, query, pallas_tiles.NT) + bias_ref[tile]
      weights = jnp.where(
        mask, jnp.exp(logits - logsumexp_ref[0, 0, g : g + 1]), 0.0
      )
      value_sum_ref[:, lanes] += pallas_tiles.dot(
        weights.astype(query.dtype), cotangent, pallas_tiles.NN
      )
      by_weights = pallas_tiles.dot(
        value_ref[0, :, lanes], cotangent, pallas_tiles.NT
      )
      by_logits = weights * (by_weights - inner_ref[0, 0, g : g + 1])
      by_bias_ref[tile] += by_logits
      by_logits = by_logits.astype(query.dtype)
      key_sum_ref[:, lanes] += pallas_tiles.dot(
        by_logits, query, pallas_tiles.NN
      )
      query_sum_ref[queries, lanes] += pallas_tiles.dot(
        by_logits, key, pallas_tiles.TN
      )

  @pl.when(i == pl.num_programs(3) - 1)
  def _():
    by_key_ref[0] = key_sum_ref[...].astype(by_key_ref.dtype)
    by_value_ref[0] = value_sum_ref[...].astype(by_value_ref.dtype)

  @pl.when(is_last)
  def _():
    by_query_ref[0] = query_sum_ref[...].astype(by_query_ref.dtype)

  @pl.when((row == pl.num_programs(1) - 1) & is_last)
  def _():
    pallas_bias.sum_tiles(by_bias_ref, by_windows_ref)


def backward(
  setup: pallas_tiles.Setup, residuals: tuple, cotangent: jax.Array
) -> tuple:
  """Gradients by the operands of `pallas_forward.forward`, None of segments."""
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
  specs = pallas_tiles.specs(setup, 3, 2)
  share = 0.5 if setup.is_causal else 1
  windows = pallas_bias.windows(setup, table)
  tiles = pltpu.VMEM((num_heads * setup.num_tiles, b, b), jnp.float32)
  of_block = pltpu.VMEM((b, setup.num_lanes), jnp.float32)
  by_query, by_key, by_value, by_windows = setup.call(
    _kernel,
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
  by_table = pallas_bias.table_gradient(setup, by_windows)
  return by_query, by_key, by_value, by_table, None, None
