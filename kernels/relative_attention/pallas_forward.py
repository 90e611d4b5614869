"""The output, tile by tile, with a running softmax.

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
    pallas_bias.make_tiles(windows_ref, bias_ref)

  @pl.when(j == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)
    running_ref[:num_heads] = jnp.full(
      (num_heads, setup.block), pallas_tiles.LOWEST
    )
    running_ref[num_heads:] = jnp.zeros((num_heads, setup.block))

  @pl.when((offset <= 0) | (not setup.is_causal))
  def _():
    mask = pallas_tiles.mask(
      setup, key_segments_ref[0], query_segments_ref[0], offset
    )
    for g, lanes in setup.heads():
      bias = bias_ref[g * setup.num_tiles + pallas_tiles.tile(setup, offset)]
      logits = (
        pallas_tiles.dot(
          key_ref[0, :, lanes], query_ref[0, :, lanes], pallas_tiles.NT
        )
        + bias
      )
      logits = jnp.where(mask, logits, pallas_tiles.LOWEST)
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
      sum_ref[lanes] = shrink * sum_ref[lanes] + pallas_tiles.dot(
        value, weights.astype(value.dtype), pallas_tiles.TN
      )

  @pl.when(j == pl.num_programs(3) - 1)
  def _():
    normalizer = running_ref[num_heads:]
    normalizer = jnp.where(normalizer == 0, 1.0, normalizer)
    logsumexp_ref[0, 0] = running_ref[:num_heads] + jnp.log(normalizer)
    for g, lanes in setup.heads():
      sum_ref[lanes] = sum_ref[lanes] * (1 / normalizer[g : g + 1])
    output_ref[0] = sum_ref[...].T.astype(output_ref.dtype)


def forward(
  setup: pallas_tiles.Setup,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  table: jax.Array,
  query_segments: jax.Array,
  key_segments: jax.Array,
) -> tuple[jax.Array, tuple]:
  """(Output [B, T, N H], what `pallas_backward` needs); heads side by side."""
  (B, T, NH), S = query.shape, key.shape[1]
  num_heads = len(setup.heads())
  num_groups = NH // setup.num_lanes
  b = setup.block
  specs = pallas_tiles.specs(setup, 2, 3)
  share = 0.5 if setup.is_causal else 1
  output, logsumexp = setup.call(
    _kernel,
    pallas_bias.windows(setup, table),
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
