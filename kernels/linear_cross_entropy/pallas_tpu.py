"""Pallas kernels for TPU: logits exist one tile at a time, in on-chip memory.

A training step takes 8 N D V FLOPs, against the 6 of plain XLA that keeps the
logits. Its forward pass computes, with the statistics, the mean of the kernel's
columns under the softmax, as flash attention computes its output; of that, the
gradient of hidden is a combination, whatever the cotangents turn out to be. The
gradient of kernel holds a block of what it computes, adds up in float32, and
streams the tokens past it; it computes each tile of logits again. With e bytes
an element of hidden and kernel:

| computes              | FLOPs   | streamed from HBM, bytes         | grid         |
|-----------------------|---------|----------------------------------|--------------|
| statistics            | 2 N D V | e N D V (1 / tokens + 1 / vocab) | tokens, V, D |
| statistics, expected  | 4 N D V | e N D V / held                   | tokens, V    |
| combination           | none    | 128 e N D                        | tokens       |
| d of hidden           | 4 N D V | e N D V / held                   | tokens, V    |
| d of kernel           | 4 N D V | e N D V / held                   | V, tokens    |

Without a gradient only the first runs: 2 N D V. A soft-cap or the entropy put
more than the softmax between the logits and the gradient of hidden: then the
statistics, d of hidden and d of kernel run, 10 N D V.

On-chip memory: `blocks.vmem_bytes`. In HBM, besides inputs and outputs, a few
arrays of per-token numbers of 512 bytes a token, as a TPU pads rows to 128
lanes; the expectation lies where the gradient of hidden will.

Letters: N tokens, D width, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import pallas_kernels, reference

VMEM_SHARE = 0.9  # of the chip's; the compiler keeps some for itself
_FORWARD_WIDTH = 512  # of D, at most, in one forward product


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class _Setup:
  """What all calls share."""

  soft_cap: float | None
  with_entropy: bool
  blocks: blocks_lib.Blocks
  vmem_limit_bytes: int
  interpret: bool | pltpu.InterpretParams

  def call(self, kernel, *operands, num_flops, num_bytes, num_exps, **kwargs):
    grid = kwargs["grid_spec"].grid if "grid_spec" in kwargs else kwargs["grid"]
    parallel = "parallel", *["arbitrary"] * (len(grid) - 1)
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
  """Float32 [N, 3], or [N, 4] with the entropy."""
  (num_tokens, width), vocab_size = hidden.shape, kernel.shape[1]
  tokens = min(setup.blocks.tokens, _round_up(num_tokens, blocks_lib.SUBLANES))
  vocab = min(setup.blocks.vocab, _round_up(vocab_size, blocks_lib.LANES))
  size = blocks_lib.slice_width(width, _FORWARD_WIDTH)
  hidden, targets = (_pad_tokens(x, tokens) for x in (hidden, targets))
  padded = hidden.shape[0]
  grid = (padded // tokens, pl.cdiv(vocab_size, vocab), width // size)
  num_statistics = 3 + setup.with_entropy
  return setup.call(
    functools.partial(
      pallas_kernels.statistics_kernel,
      vocab_size=vocab_size,
      soft_cap=setup.soft_cap,
    ),
    hidden,
    kernel,
    targets,
    name="linear_cross_entropy_statistics",
    grid=grid,
    in_specs=[
      pl.BlockSpec((tokens, size), lambda n, v, d: (n, d)),
      pl.BlockSpec((size, vocab), lambda n, v, d: (d, v)),
      pl.BlockSpec((tokens, 1), lambda n, v, d: (n, 0)),
    ],
    out_specs=pl.BlockSpec((tokens, num_statistics), lambda n, v, d: (n, 0)),
    out_shape=jax.ShapeDtypeStruct((padded, num_statistics), jnp.float32),
    scratch_shapes=[
      pltpu.VMEM((tokens, vocab), jnp.float32),
      pltpu.VMEM((tokens, 3), jnp.float32),
    ],
    num_flops=2 * padded * width * vocab_size,
    num_bytes=kernel.nbytes * grid[0] + hidden.nbytes * grid[1],
    num_exps=padded * vocab_size,
  )[:num_tokens]


def _statistics_and_expectation(setup, hidden, kernel, targets):
  """Float32 [N, 3] and [N, D] in the dtype of hidden."""
  (num_tokens, width), vocab_size = hidden.shape, kernel.shape[1]
  tokens = min(setup.blocks.held, _round_up(num_tokens, blocks_lib.SUBLANES))
  vocab = min(setup.blocks.streamed, _round_up(vocab_size, blocks_lib.LANES))
  hidden, targets = (_pad_tokens(x, tokens) for x in (hidden, targets))
  padded = hidden.shape[0]
  grid = (padded // tokens, pl.cdiv(vocab_size, vocab))
  statistics, expected = setup.call(
    functools.partial(pallas_kernels.expectation_kernel, vocab_size=vocab_size),
    hidden,
    kernel,
    targets,
    name="linear_cross_entropy_expectation",
    grid=grid,
    in_specs=[
      # Unchanged while the vocabulary passes by: one copy is enough.
      pl.BlockSpec(
        (tokens, width), lambda n, v: (n, 0), pipeline_mode=pl.Buffered(1)
      ),
      pl.BlockSpec((width, vocab), lambda n, v: (0, v)),
      pl.BlockSpec((tokens, 1), lambda n, v: (n, 0)),
    ],
    out_specs=[
      pl.BlockSpec((tokens, 3), lambda n, v: (n, 0)),
      pl.BlockSpec((tokens, width), lambda n, v: (n, 0)),
    ],
    out_shape=[
      jax.ShapeDtypeStruct((padded, 3), jnp.float32),
      jax.ShapeDtypeStruct(hidden.shape, hidden.dtype),
    ],
    scratch_shapes=[
      pltpu.VMEM((tokens, width), jnp.float32),
      pltpu.VMEM((tokens, 3), jnp.float32),
    ],
    num_flops=4 * padded * width * vocab_size,
    num_bytes=kernel.nbytes * grid[0] + 2 * hidden.nbytes,
    num_exps=padded * vocab_size,
  )
  return statistics[:num_tokens], expected[:num_tokens]


def _combination(setup, expected, kernel, targets, rows):
  """The gradient of hidden, [N, D], from the expectation.

  With p of the target, and cotangents a, b, s of the three statistics: a times
  the expectation, plus (a p + b) times the target's column of kernel, plus s
  times the sum of all columns.
  """
  (num_tokens, width), vocab_size = expected.shape, kernel.shape[1]
  logsumexp, target_logit, _, a, b, s = rows.T
  p = jnp.exp(jnp.minimum(target_logit - logsumexp, 0.0))
  is_here = (targets[:, 0] >= 0) & (targets[:, 0] < vocab_size)
  factors = jnp.stack([a, jnp.where(is_here, a * p + b, 0.0), s], axis=1)
  lanes = blocks_lib.LANES
  expected, factors, targets = (
    _pad_tokens(x, lanes) for x in (expected, factors, targets)
  )
  grid = (expected.shape[0] // lanes, lanes)
  return setup.call(
    pallas_kernels.combination_kernel,
    jnp.clip(targets[:, 0], 0, vocab_size - 1),
    expected,
    factors,
    kernel.sum(axis=1, dtype=jnp.float32)[None],
    kernel,
    name="linear_cross_entropy_combination",
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=grid,
      in_specs=[
        pl.BlockSpec((lanes, width), lambda n, t, targets: (n, 0)),
        pl.BlockSpec((lanes, 3), lambda n, t, targets: (n, 0)),
        pl.BlockSpec((1, width), lambda n, t, targets: (0, 0)),
        pl.BlockSpec(
          (width, lanes),
          lambda n, t, targets: (
            0,
            jax.lax.div(targets[n * lanes + t], lanes),
          ),
        ),
      ],
      out_specs=pl.BlockSpec((lanes, width), lambda n, t, targets: (n, 0)),
      scratch_shapes=[pltpu.VMEM((width, lanes), jnp.float32)],
    ),
    out_shape=jax.ShapeDtypeStruct(expected.shape, expected.dtype),
    input_output_aliases={1: 0},
    num_flops=6 * expected.size,
    num_bytes=(lanes + 2) * expected.nbytes,
    num_exps=0,
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
    functools.partial(
      pallas_kernels.hidden_gradient_kernel,
      vocab_size=vocab_size,
      soft_cap=setup.soft_cap,
    ),
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
      pl.BlockSpec((tokens, rows.shape[1]), lambda n, v: (n, 0)),
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
    functools.partial(
      pallas_kernels.kernel_gradient_kernel,
      vocab_size=vocab_size,
      soft_cap=setup.soft_cap,
    ),
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
      pl.BlockSpec((tokens, rows.shape[1]), lambda v, n: (n, 0)),
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
  if setup.soft_cap is None and not setup.with_entropy:
    statistics, expected = _statistics_and_expectation(
      setup, hidden, kernel, targets
    )
  else:
    statistics, expected = _statistics(setup, hidden, kernel, targets), None
  return statistics, (hidden, kernel, targets, statistics, expected)


def _backward(setup, residuals, cotangents):
  hidden, kernel, targets, statistics, expected = residuals
  rows = jnp.concatenate([statistics, cotangents], axis=1)
  if expected is None:
    by_hidden = _hidden_gradient(setup, hidden, kernel, targets, rows)
  else:
    by_hidden = _combination(setup, expected, kernel, targets, rows)
  by_kernel = _kernel_gradient(setup, hidden, kernel, targets, rows)
  return by_hidden, by_kernel, None


_token_statistics.defvjp(_forward, _backward)


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  soft_cap: float | None,
  with_entropy: bool,
  blocks: blocks_lib.Blocks,
  vmem_limit_bytes: int,
  interpret: bool | pltpu.InterpretParams,
) -> reference.TokenStatistics:
  """As `reference.token_statistics`, for one TPU core.

  Args:
    hidden: [N, D], float32 or bfloat16; D a multiple of 128.
    kernel: [D, V], same dtype.
    targets: int32 [N]; outside [0, V) it matches no column.
    soft_cap: c > 0 of c tanh(logits / c), or None.
    with_entropy: whether the entropy is wanted.
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
  setup = _Setup(soft_cap, with_entropy, blocks, vmem_limit_bytes, interpret)
  statistics = _token_statistics(setup, hidden, kernel, targets[:, None])
  return reference.TokenStatistics(*statistics.T)


def token_statistics_on_chip(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  soft_cap: float | None,
  with_entropy: bool,
  vmem_capacity_bytes: int,
) -> reference.TokenStatistics:
  """`token_statistics` with the tiles that suit a TPU core's on-chip memory."""
  limit = int(VMEM_SHARE * vmem_capacity_bytes)
  return token_statistics(
    hidden,
    kernel,
    targets,
    soft_cap=soft_cap,
    with_entropy=with_entropy,
    blocks=blocks_lib.choose_blocks(
      width=hidden.shape[1],
      itemsize=hidden.dtype.itemsize,
      vmem_limit_bytes=limit,
    ),
    vmem_limit_bytes=limit,
    interpret=False,
  )


def token_statistics_on_this_chip(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  soft_cap: float | None,
  with_entropy: bool,
) -> reference.TokenStatistics:
  """`token_statistics` with the tiles that suit the TPU of this process."""
  return token_statistics_on_chip(
    hidden,
    kernel,
    targets,
    soft_cap=soft_cap,
    with_entropy=with_entropy,
    vmem_capacity_bytes=pltpu.get_tpu_info().vmem_capacity_bytes,
  )
