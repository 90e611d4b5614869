"""The bodies of the TPU kernels; `pallas_tpu` gives them their grids.

Letters: N tokens, D width, V vocabulary. A program works on one tile: `tokens`
x `vocab` in the statistics, `held` x `streamed` in the others.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import gradient, reference

# Contractions: rows by columns, columns by columns, rows by rows.
_NN = (((1,), (0,)), ((), ()))
_NT = (((1,), (1,)), ((), ()))
_TN = (((0,), (0,)), ((), ()))

# Stands for -inf where -inf x 0 would be NaN; exp of it is 0.
_LOWEST = -1e30


def _dot(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


def _columns(shape: tuple[int, int], block: jax.Array) -> jax.Array:
  """Vocabulary ids of the columns of a tile."""
  return jax.lax.broadcasted_iota(jnp.int32, shape, 1) + block * shape[1]


def _slices(width: int, limit: int) -> list[slice]:
  """Of D: whole products of it would need large temporaries."""
  size = blocks_lib.slice_width(width, limit)
  return [slice(start, start + size) for start in range(0, width, size)]


def _start(statistics_ref, running_ref):
  """Before the first block of the vocabulary."""
  statistics_ref[...] = jnp.zeros_like(statistics_ref)
  running_ref[...] = jnp.zeros_like(running_ref)
  running_ref[:, 0:1] = jnp.full_like(running_ref[:, 0:1], _LOWEST)


def _add_block(
  logits, is_target, exists, statistics_ref, running_ref
) -> tuple[jax.Array, jax.Array]:
  """Takes a block of the vocabulary into the statistics.

  Args:
    logits: float32 [tokens, vocab].
    is_target: bool [tokens, vocab].
    exists: bool [tokens, vocab]; False beyond V, where logits are undefined.
    statistics_ref: float32 [tokens, 3 or, with the entropy, 4].
    running_ref: float32 [tokens, 3]: the maximum m so far, and the sums of
      exp(z - m) and, for the entropy, of exp(z - m) (z - m).

  Returns:
    exp(z - m) of the block [tokens, vocab], and [tokens, 1] by which earlier
    sums of such weights shrink.
  """
  statistics_ref[:, 1:2] += jnp.where(is_target, logits, 0.0).sum(
    axis=1, keepdims=True
  )
  statistics_ref[:, 2:3] += jnp.where(exists, logits, 0.0).sum(
    axis=1, keepdims=True
  )
  logits = jnp.where(exists, logits, -jnp.inf)
  before, normalizer = running_ref[:, 0:1], running_ref[:, 1:2]
  maximum = jnp.maximum(before, logits.max(axis=1, keepdims=True))
  shrink = jnp.exp(before - maximum)
  weights = jnp.exp(logits - maximum)
  running_ref[:, 0:1] = maximum
  if statistics_ref.shape[1] == 4:
    moment = shrink * (
      running_ref[:, 2:3] + normalizer * (before - maximum)
    ) + (weights * jnp.maximum(logits - maximum, _LOWEST)).sum(
      axis=1, keepdims=True
    )
    running_ref[:, 2:3] = moment
  normalizer = shrink * normalizer + weights.sum(axis=1, keepdims=True)
  running_ref[:, 1:2] = normalizer
  # Right after the last block; what earlier ones write is overwritten.
  statistics_ref[:, 0:1] = maximum + jnp.log(normalizer)
  if statistics_ref.shape[1] == 4:
    statistics_ref[:, 3:4] = jnp.log(normalizer) - moment / normalizer
  return weights, shrink


def statistics_kernel(
  hidden_ref,  # [tokens, slice of D]
  kernel_ref,  # [slice of D, vocab]
  targets_ref,  # [tokens, 1] int32
  statistics_ref,  # [tokens, 3 or 4] float32, as in TokenStatistics
  logits_ref,  # [tokens, vocab] float32
  running_ref,  # [tokens, 3] float32
  *,
  vocab_size: int,
  soft_cap: float | None,
):
  """The statistics. Grid: tokens, vocabulary, D."""
  block, step = pl.program_id(1), pl.program_id(2)

  @pl.when((block == 0) & (step == 0))
  def _():
    _start(statistics_ref, running_ref)

  product = _dot(hidden_ref[...], kernel_ref[...], _NN)

  @pl.when(step == 0)
  def _():
    logits_ref[...] = product

  @pl.when(step > 0)
  def _():
    logits_ref[...] += product

  @pl.when(step == pl.num_programs(2) - 1)
  def _():
    logits = reference.capped(logits_ref[...], soft_cap)
    columns = _columns(logits.shape, block)
    # The last block may reach past V, where its columns hold anything.
    exists = columns < vocab_size
    is_target = exists & (columns == targets_ref[...])
    _add_block(logits, is_target, exists, statistics_ref, running_ref)


def expectation_kernel(
  hidden_ref,  # [held, D]
  kernel_ref,  # [D, streamed]
  targets_ref,  # [held, 1] int32
  statistics_ref,  # [held, 3] float32, as in TokenStatistics
  expected_ref,  # [held, D]
  sum_ref,  # [held, D] float32
  running_ref,  # [held, 3] float32
  *,
  vocab_size: int,
):
  """The statistics, and sum over v of p[v] kernel[:, v] but for the target's v.

  This is attention over the vocabulary, kept as flash attention keeps its sums.
  Grid: tokens, vocabulary.
  """
  block = pl.program_id(1)

  @pl.when(block == 0)
  def _():
    _start(statistics_ref, running_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  logits = _dot(hidden_ref[...], kernel_ref[...], _NN)
  columns = _columns(logits.shape, block)
  exists = columns < vocab_size
  is_target = exists & (columns == targets_ref[...])
  weights, shrink = _add_block(
    logits, is_target, exists, statistics_ref, running_ref
  )
  weights = jnp.where(is_target, 0.0, weights).astype(hidden_ref.dtype)
  for part in _slices(kernel_ref.shape[0], blocks_lib.BACKWARD_WIDTH):
    kernel = _existing(kernel_ref[part, :], block, vocab_size)
    sum_ref[:, part] = shrink * sum_ref[:, part] + _dot(weights, kernel, _NT)

  @pl.when(block == pl.num_programs(1) - 1)
  def _():
    mean = sum_ref[...] * (1 / running_ref[:, 1:2])
    expected_ref[...] = mean.astype(expected_ref.dtype)


def combination_kernel(
  targets_ref,  # [N] int32, in [0, V), in scalar memory
  expected_ref,  # [128, D]
  factors_ref,  # [128, 3] float32: of expected, of the target's column, of total
  total_ref,  # [1, D] float32, sum of the columns of kernel
  kernel_ref,  # [D, 128], the block with the target's column
  gradient_ref,  # [128, D]
  columns_ref,  # [D, 128] float32: the columns of these tokens' targets
):
  """The gradient of hidden from the expectation. Grid: tokens / 128, 128."""
  token = pl.program_id(1)
  target = targets_ref[pl.program_id(0) * blocks_lib.LANES + token]
  lane = jax.lax.rem(target, blocks_lib.LANES)
  for part in _slices(kernel_ref.shape[0], blocks_lib.BACKWARD_WIDTH):
    block = kernel_ref[part, :].astype(jnp.float32)
    shift = jnp.bitwise_and(token - lane, blocks_lib.LANES - 1)
    turned = pltpu.roll(block, shift, axis=1)
    is_token = _columns(block.shape, 0) == token
    columns_ref[part, :] = jnp.where(is_token, turned, columns_ref[part, :])

  @pl.when(token == pl.num_programs(1) - 1)
  def _():
    factors = factors_ref[...]
    for part in _slices(kernel_ref.shape[0], blocks_lib.BACKWARD_WIDTH):
      total = (
        factors[:, 0:1] * expected_ref[:, part].astype(jnp.float32)
        + factors[:, 1:2] * columns_ref[part, :].T
        + factors[:, 2:3] * total_ref[:, part]
      )
      gradient_ref[:, part] = total.astype(gradient_ref.dtype)


def _existing(kernel, block, vocab_size):
  """A block of kernel with 0 past V: there may be NaN, and 0 x NaN is NaN."""
  if vocab_size % kernel.shape[1] == 0:
    return kernel
  return jnp.where(_columns(kernel.shape, block) < vocab_size, kernel, 0)


def _product_gradient(
  hidden, kernel, targets, rows, block, vocab_size, soft_cap
):
  """The loss's gradient by a tile of hidden @ kernel, 0 beyond V.

  Args:
    hidden: [tokens, D].
    kernel: [D, vocab].
    targets: int32 [tokens, 1].
    rows: float32 [tokens, 6 or 8]: the statistics, then their cotangents.
    block: which block of the vocabulary this is.
    vocab_size: V.
    soft_cap: of the logits.

  Returns:
    [tokens, vocab] in the dtype of hidden.
  """
  logits = reference.capped(_dot(hidden, kernel, _NN), soft_cap)
  columns = _columns(logits.shape, block)
  half = rows.shape[1] // 2
  of_products = gradient.of_products(
    logits,
    columns == targets,
    reference.TokenStatistics(*(rows[:, i : i + 1] for i in range(half))),
    reference.TokenStatistics(
      *(rows[:, i : i + 1] for i in range(half, 2 * half))
    ),
    soft_cap,
  )
  return jnp.where(columns < vocab_size, of_products, 0.0).astype(hidden.dtype)


def hidden_gradient_kernel(
  hidden_ref,  # [held, D]
  kernel_ref,  # [D, streamed]
  targets_ref,  # [held, 1] int32
  rows_ref,  # [held, 6 or 8] float32
  gradient_ref,  # [held, D]
  sum_ref,  # [held, D] float32
  *,
  vocab_size: int,
  soft_cap: float | None,
):
  """The gradient of hidden. Grid: tokens, vocabulary."""
  block = pl.program_id(1)

  @pl.when(block == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  of_products = _product_gradient(
    hidden_ref[...],
    kernel_ref[...],
    targets_ref[...],
    rows_ref[...],
    block,
    vocab_size,
    soft_cap,
  )
  for part in _slices(kernel_ref.shape[0], blocks_lib.BACKWARD_WIDTH):
    kernel = _existing(kernel_ref[part, :], block, vocab_size)
    sum_ref[:, part] += _dot(of_products, kernel, _NT)

  @pl.when(block == pl.num_programs(1) - 1)
  def _():
    gradient_ref[...] = sum_ref[...].astype(gradient_ref.dtype)


def kernel_gradient_kernel(
  hidden_ref,  # [streamed, D]
  kernel_ref,  # [D, held]
  targets_ref,  # [streamed, 1] int32
  rows_ref,  # [streamed, 6 or 8] float32
  gradient_ref,  # [D, held]
  sum_ref,  # [D, held] float32
  *,
  vocab_size: int,
  soft_cap: float | None,
):
  """The gradient of kernel. Grid: vocabulary, tokens."""
  step = pl.program_id(1)

  @pl.when(step == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  of_products = _product_gradient(
    hidden_ref[...],
    kernel_ref[...],
    targets_ref[...],
    rows_ref[...],
    pl.program_id(0),
    vocab_size,
    soft_cap,
  )
  for part in _slices(kernel_ref.shape[0], blocks_lib.BACKWARD_WIDTH):
    sum_ref[part, :] += _dot(hidden_ref[:, part], of_products, _TN)

  @pl.when(step == pl.num_programs(1) - 1)
  def _():
    gradient_ref[...] = sum_ref[...].astype(gradient_ref.dtype)
