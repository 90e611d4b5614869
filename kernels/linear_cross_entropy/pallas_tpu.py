"""Pallas kernels for TPU: logits exist one tile at a time, in on-chip memory.

Three kernels: the statistics, the gradient of hidden, the gradient of kernel.
A gradient kernel holds one block of what it computes, adds up in float32, and
streams the other operand past it; it computes each tile of logits again. With
e bytes an element of hidden and kernel:

| computes        | FLOPs  | streamed from HBM, bytes        | grid         |
|-----------------|--------|---------------------------------|--------------|
| statistics      | 2 N D V | e N D V (1 / tokens + 1 / vocab) | tokens, V, D |
| d of hidden     | 4 N D V | e N D V / held                  | tokens, V    |
| d of kernel     | 4 N D V | e N D V / held                  | V, tokens    |

On-chip memory: `blocks.vmem_bytes`. In HBM, besides inputs and outputs, a few
arrays of per-token numbers of 512 bytes a token: a TPU pads rows to 128 lanes.

Letters: N tokens, D width, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import reference

VMEM_SHARE = 0.9  # of the chip's; the compiler keeps some for itself
_FORWARD_WIDTH = 512  # of D, at most, in one forward product

# Contractions: rows by columns, columns by columns, rows by rows.
_NN = (((1,), (0,)), ((), ()))
_NT = (((1,), (1,)), ((), ()))
_TN = (((0,), (0,)), ((), ()))


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _dot(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


def _columns(shape: tuple[int, int], block: jax.Array) -> jax.Array:
  """Vocabulary ids of the columns of a tile."""
  return jax.lax.broadcasted_iota(jnp.int32, shape, 1) + block * shape[1]


def _forward_kernel(
  hidden_ref,  # [tokens, slice of D]
  kernel_ref,  # [slice of D, vocab]
  targets_ref,  # [tokens, 1] int32
  statistics_ref,  # [tokens, 3] float32: logsumexp, target logit, sum
  logits_ref,  # [tokens, vocab] float32
  maximum_ref,  # [tokens, 1] float32, of the logits so far
  normalizer_ref,  # [tokens, 1] float32, sum of exp(logits - maximum) so far
  *,
  vocab_size: int,
):
  block, step = pl.program_id(1), pl.program_id(2)

  @pl.when((block == 0) & (step == 0))
  def _():
    statistics_ref[...] = jnp.zeros_like(statistics_ref)
    maximum_ref[...] = jnp.full_like(maximum_ref, -jnp.inf)
    normalizer_ref[...] = jnp.zeros_like(normalizer_ref)

  product = _dot(hidden_ref[...], kernel_ref[...], _NN)

  @pl.when(step == 0)
  def _():
    logits_ref[...] = product

  @pl.when(step > 0)
  def _():
    logits_ref[...] += product

  @pl.when(step == pl.num_programs(2) - 1)
  def _():
    logits = logits_ref[...]
    columns = _columns(logits.shape, block)
    # The last block may reach past V, where its columns hold anything.
    exists = columns < vocab_size
    is_target = exists & (columns == targets_ref[...])
    statistics_ref[:, 1:2] += jnp.where(is_target, logits, 0.0).sum(
      axis=1, keepdims=True
    )
    statistics_ref[:, 2:3] += jnp.where(exists, logits, 0.0).sum(
      axis=1, keepdims=True
    )
    logits = jnp.where(exists, logits, -jnp.inf)
    before = maximum_ref[...]
    maximum = jnp.maximum(before, logits.max(axis=1, keepdims=True))
    normalizer = normalizer_ref[...] * jnp.exp(before - maximum)
    normalizer += jnp.exp(logits - maximum).sum(axis=1, keepdims=True)
    maximum_ref[...] = maximum
    normalizer_ref[...] = normalizer
    # Right after the last block; what earlier ones write is overwritten.
    statistics_ref[:, 0:1] = maximum + jnp.log(normalizer)


def _logit_gradient(hidden, kernel, targets, rows, block, vocab_size):
  """The loss's gradient by a tile of logits, 0 beyond V.

  Args:
    hidden: [tokens, D].
    kernel: [D, vocab].
    targets: int32 [tokens, 1].
    rows: float32 [tokens, 4]: logsumexp, then the cotangents of the three
      statistics.
    block: which block of the vocabulary this is.
    vocab_size: V.

  Returns:
    [tokens, vocab] in the dtype of hidden.
  """
  logits = _dot(hidden, kernel, _NN)
  columns = _columns(logits.shape, block)
  gradient = (
    rows[:, 1:2] * jnp.exp(logits - rows[:, 0:1])
    + jnp.where(columns == targets, rows[:, 2:3], 0.0)
    + rows[:, 3:4]
  )
  return jnp.where(columns < vocab_size, gradient, 0.0).astype(hidden.dtype)


def _hidden_kernel(
  hidden_ref,  # [held, D]
  kernel_ref,  # [D, streamed]
  targets_ref,  # [held, 1] int32
  rows_ref,  # [held, 4] float32
  gradient_ref,  # [held, D]
  sum_ref,  # [held, D] float32
  *,
  vocab_size: int,
):
  block = pl.program_id(1)

  @pl.when(block == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  by_logits = _logit_gradient(
    hidden_ref[...],
    kernel_ref[...],
    targets_ref[...],
    rows_ref[...],
    block,
    vocab_size,
  )
  width, streamed = kernel_ref.shape
  size = blocks_lib.slice_width(width, blocks_lib.BACKWARD_WIDTH)
  for start in range(0, width, size):
    part = kernel_ref[start : start + size, :]
    if vocab_size % streamed:
      # Columns past V may hold NaN, and 0 x NaN is NaN.
      part = jnp.where(_columns(part.shape, block) < vocab_size, part, 0)
    sum_ref[:, start : start + size] += _dot(by_logits, part, _NT)

  @pl.when(block == pl.num_programs(1) - 1)
  def _():
    gradient_ref[...] = sum_ref[...].astype(gradient_ref.dtype)


def _kernel_kernel(
  hidden_ref,  # [streamed, D]
  kernel_ref,  # [D, held]
  targets_ref,  # [streamed, 1] int32
  rows_ref,  # [streamed, 4] float32
  gradient_ref,  # [D, held]
  sum_ref,  # [D, held] float32
  *,
  vocab_size: int,
):
  step = pl.program_id(1)

  @pl.when(step == 0)
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  by_logits = _logit_gradient(
    hidden_ref[...],
    kernel_ref[...],
    targets_ref[...],
    rows_ref[...],
    pl.program_id(0),
    vocab_size,
  )
  width = kernel_ref.shape[0]
  size = blocks_lib.slice_width(width, blocks_lib.BACKWARD_WIDTH)
  for start in range(0, width, size):
    part = hidden_ref[:, start : start + size]
    sum_ref[start : start + size, :] += _dot(part, by_logits, _TN)

  @pl.when(step == pl.num_programs(1) - 1)
  def _():
    gradient_ref[...] = sum_ref[...].astype(gradient_ref.dtype)


@dataclasses.dataclass(frozen=True)
class _Setup:
  """What all three calls share."""

  blocks: blocks_lib.Blocks
  vmem_limit_bytes: int
  interpret: bool | pltpu.InterpretParams

  def call(self, kernel, *operands, num_flops, num_bytes, num_exps, **kwargs):
    parallel = "parallel", *["arbitrary"] * (len(kwargs["grid"]) - 1)
    return pl.pallas_call(
      kernel,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=parallel,
        vmem_limit_bytes=self.vmem_limit_bytes,
      ),
      cost_estimate=pl.CostEstimate(
        flops=num_flops, bytes_accessed=num_bytes, transcendentals=num_exps
      ),
      interpret=self.interpret,
      **kwargs,
    )(*operands)


def _pad_tokens(x: jax.Array, multiple: int) -> jax.Array:
  return jnp.pad(x, ((0, -x.shape[0] % multiple), (0, 0)))


def _statistics(setup, hidden, kernel, targets):
  """Float32 [N, 3]."""
  (num_tokens, width), vocab_size = hidden.shape, kernel.shape[1]
  tokens = min(setup.blocks.tokens, _round_up(num_tokens, blocks_lib.SUBLANES))
  vocab = min(setup.blocks.vocab, _round_up(vocab_size, blocks_lib.LANES))
  size = blocks_lib.slice_width(width, _FORWARD_WIDTH)
  hidden, targets = (_pad_tokens(x, tokens) for x in (hidden, targets))
  padded = hidden.shape[0]
  grid = (padded // tokens, pl.cdiv(vocab_size, vocab), width // size)
  column = pltpu.VMEM((tokens, 1), jnp.float32)
  return setup.call(
    functools.partial(_forward_kernel, vocab_size=vocab_size),
    hidden,
    kernel,
    targets,
    name="linear_cross_entropy_forward",
    grid=grid,
    in_specs=[
      pl.BlockSpec((tokens, size), lambda n, v, d: (n, d)),
      pl.BlockSpec((size, vocab), lambda n, v, d: (d, v)),
      pl.BlockSpec((tokens, 1), lambda n, v, d: (n, 0)),
    ],
    out_specs=pl.BlockSpec((tokens, 3), lambda n, v, d: (n, 0)),
    out_shape=jax.ShapeDtypeStruct((padded, 3), jnp.float32),
    scratch_shapes=[pltpu.VMEM((tokens, vocab), jnp.float32), column, column],
    num_flops=2 * padded * width * vocab_size,
    num_bytes=kernel.nbytes * grid[0] + hidden.nbytes * grid[1],
    num_exps=padded * vocab_size,
  )[:num_tokens]


def _hidden_gradient(setup, hidden, kernel, targets, rows):
  """[N, D] in the dtype of hidden."""
  (num_tokens, width), vocab_size = hidden.shape, kernel.shape[1]
  tokens = min(setup.blocks.held, _round_up(num_tokens, blocks_lib.SUBLANES))
  vocab = min(setup.blocks.streamed, _round_up(vocab_size, blocks_lib.LANES))
  hidden, targets, rows = (
    _pad_tokens(x, tokens) for x in (hidden, targets, rows)
  )
  padded = hidden.shape[0]
  grid = (padded // tokens, pl.cdiv(vocab_size, vocab))
  return setup.call(
    functools.partial(_hidden_kernel, vocab_size=vocab_size),
    hidden,
    kernel,
    targets,
    rows,
    name="linear_cross_entropy_dhidden",
    grid=grid,
    in_specs=[
      # Unchanged while the vocabulary passes by: one copy is enough.
      pl.BlockSpec(
        (tokens, width), lambda n, v: (n, 0), pipeline_mode=pl.Buffered(1)
      ),
      pl.BlockSpec((width, vocab), lambda n, v: (0, v)),
      pl.BlockSpec((tokens, 1), lambda n, v: (n, 0)),
      pl.BlockSpec((tokens, 4), lambda n, v: (n, 0)),
    ],
    out_specs=pl.BlockSpec((tokens, width), lambda n, v: (n, 0)),
    out_shape=jax.ShapeDtypeStruct(hidden.shape, hidden.dtype),
    scratch_shapes=[pltpu.VMEM((tokens, width), jnp.float32)],
    num_flops=4 * padded * width * vocab_size,
    num_bytes=kernel.nbytes * grid[0] + 2 * hidden.nbytes,
    num_exps=padded * vocab_size,
  )[:num_tokens]


def _kernel_gradient(setup, hidden, kernel, targets, rows):
  """[D, V] in the dtype of kernel."""
  (num_tokens, width), vocab_size = hidden.shape, kernel.shape[1]
  tokens = min(
    setup.blocks.streamed, _round_up(num_tokens, blocks_lib.SUBLANES)
  )
  vocab = min(setup.blocks.held, _round_up(vocab_size, blocks_lib.LANES))
  # Padding tokens have cotangents of 0, so they add nothing.
  hidden, targets, rows = (
    _pad_tokens(x, tokens) for x in (hidden, targets, rows)
  )
  padded = hidden.shape[0]
  grid = (pl.cdiv(vocab_size, vocab), padded // tokens)
  return setup.call(
    functools.partial(_kernel_kernel, vocab_size=vocab_size),
    hidden,
    kernel,
    targets,
    rows,
    name="linear_cross_entropy_dkernel",
    grid=grid,
    in_specs=[
      pl.BlockSpec((tokens, width), lambda v, n: (n, 0)),
      pl.BlockSpec(
        (width, vocab), lambda v, n: (0, v), pipeline_mode=pl.Buffered(1)
      ),
      pl.BlockSpec((tokens, 1), lambda v, n: (n, 0)),
      pl.BlockSpec((tokens, 4), lambda v, n: (n, 0)),
    ],
    out_specs=pl.BlockSpec((width, vocab), lambda v, n: (0, v)),
    out_shape=jax.ShapeDtypeStruct(kernel.shape, kernel.dtype),
    scratch_shapes=[pltpu.VMEM((width, vocab), jnp.float32)],
    num_flops=4 * padded * width * vocab_size,
    num_bytes=hidden.nbytes * grid[0] + 2 * kernel.nbytes,
    num_exps=padded * vocab_size,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_statistics(setup, hidden, kernel, targets):
  return _statistics(setup, hidden, kernel, targets)


def _forward(setup, hidden, kernel, targets):
  statistics = _statistics(setup, hidden, kernel, targets)
  return statistics, (hidden, kernel, targets, statistics[:, 0:1])


def _backward(setup, residuals, cotangents):
  *operands, logsumexp = residuals
  rows = jnp.concatenate([logsumexp, cotangents], axis=1)
  return (
    _hidden_gradient(setup, *operands, rows),
    _kernel_gradient(setup, *operands, rows),
    None,
  )


_token_statistics.defvjp(_forward, _backward)


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  blocks: blocks_lib.Blocks,
  vmem_limit_bytes: int,
  interpret: bool | pltpu.InterpretParams,
) -> reference.TokenStatistics:
  """As `reference.token_statistics`, for one TPU core.

  Args:
    hidden: [N, D], float32 or bfloat16; D a multiple of 128.
    kernel: [D, V], same dtype.
    targets: int32 [N]; outside [0, V) it matches no column.
    blocks: of `blocks.choose_blocks`.
    vmem_limit_bytes: on-chip memory that a kernel may use.
    interpret: True or InterpretParams to emulate the kernels anywhere.

  Returns:
    TokenStatistics of [N].

  Raises:
    ValueError: if the dtypes differ or D does not fit the tiles.
  """
  if hidden.dtype != kernel.dtype:
    raise ValueError(
      f"hidden is {hidden.dtype} but kernel {kernel.dtype}; cast one of them"
    )
  if hidden.shape[1] % blocks_lib.LANES:
    raise ValueError(
      f"width {hidden.shape[1]} is not a multiple of {blocks_lib.LANES}, the lanes of a "
      "TPU; change d_model or choose backend 'chunked'"
    )
  setup = _Setup(blocks, vmem_limit_bytes, interpret)
  statistics = _token_statistics(setup, hidden, kernel, targets[:, None])
  return reference.TokenStatistics(*statistics.T)


def token_statistics_on_this_chip(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> reference.TokenStatistics:
  """`token_statistics` with the tiles that suit the TPU of this process."""
  capacity = pltpu.get_tpu_info().vmem_capacity_bytes
  limit = int(VMEM_SHARE * capacity)
  return token_statistics(
    hidden,
    kernel,
    targets,
    blocks=blocks_lib.choose_blocks(
      width=hidden.shape[1],
      itemsize=hidden.dtype.itemsize,
      vmem_limit_bytes=limit,
    ),
    vmem_limit_bytes=limit,
    interpret=False,
  )
