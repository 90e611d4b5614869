"""The TPU kernels, emulated on the CPU and compiled ahead of time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from kernels import ahead_of_time
from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import pallas_tpu, reference, shapes

# Small, so that every grid has several steps in each direction.
BLOCKS = blocks_lib.Blocks(tokens=32, vocab=128, held=32, streamed=128)


def _emulated(*inputs, soft_cap, with_entropy, interpret=True):
  return pallas_tpu.token_statistics(
    *inputs,
    soft_cap=soft_cap,
    with_entropy=with_entropy,
    blocks=BLOCKS,
    vmem_limit_bytes=1 << 26,
    interpret=interpret,
  )


PLAIN = {"soft_cap": None, "with_entropy": False}
CAPPED = {"soft_cap": 3.0, "with_entropy": True}


def _inputs(num_tokens, width, vocab_size, dtype):
  rng = np.random.default_rng(num_tokens + width + vocab_size)
  hidden = rng.normal(size=(num_tokens, width))
  kernel = 3 * rng.normal(size=(width, vocab_size)) / width**0.5
  targets = rng.integers(0, vocab_size, num_tokens)
  targets[-1] = vocab_size - 1  # in the last, ragged block
  cotangents = rng.normal(size=(4, num_tokens))
  return (
    jnp.asarray(hidden, dtype),
    jnp.asarray(kernel, dtype),
    jnp.asarray(targets, jnp.int32),
    reference.TokenStatistics(*jnp.asarray(cotangents, jnp.float32)),
  )


def _statistics_and_gradients(function, inputs, options):
  """By name: the statistics, and the gradients of hidden and of kernel."""
  hidden, kernel, targets, cotangents = inputs
  if not options["with_entropy"]:
    cotangents = cotangents._replace(entropy=None)

  @jax.jit
  def both(hidden, kernel):
    statistics, pullback = jax.vjp(
      lambda *x: function(*x, targets, **options), hidden, kernel
    )
    return statistics, pullback(cotangents)

  statistics, (by_hidden, by_kernel) = both(hidden, kernel)
  found = {k: v for k, v in statistics._asdict().items() if v is not None}
  return {**found, "d hidden": by_hidden, "d kernel": by_kernel}


def _assert_equals_reference(function, inputs, options, tolerance):
  """Relative L2 error of the statistics and the two gradients."""
  wanted = _statistics_and_gradients(
    reference.token_statistics, inputs, options
  )
  found = _statistics_and_gradients(function, inputs, options)
  assert found.keys() == wanted.keys()
  for name, want in wanted.items():
    assert found[name].dtype == want.dtype
    got, want = (np.asarray(x, np.float64) for x in (found[name], want))
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < tolerance, f"{name}: {error:.1e}"


# Float32 sums in another order: some 1e-7 each. In bfloat16 the logit gradients
# are rounded to 8 bits before the product, 2^-9 = 2e-3 on average.
@settings(max_examples=6, deadline=None)
@given(
  num_tokens=st.integers(1, 80),
  width=st.sampled_from([128, 256]),
  vocab_size=st.integers(2, 300),
  dtype=st.sampled_from(["float32", "bfloat16"]),
  soft_cap=st.sampled_from([None, 3.0, 30.0]),
  with_entropy=st.booleans(),
)
def test_statistics_and_gradients_equal_the_reference(
  num_tokens, width, vocab_size, dtype, soft_cap, with_entropy
):
  inputs = _inputs(num_tokens, width, vocab_size, jnp.dtype(dtype))
  options = {"soft_cap": soft_cap, "with_entropy": with_entropy}
  tolerance = 1e-5 if dtype == "float32" else 6e-3
  _assert_equals_reference(_emulated, inputs, options, tolerance)


@pytest.mark.parametrize("options", [PLAIN, CAPPED], ids=["plain", "capped"])
def test_what_lies_beyond_the_vocabulary_is_never_used(options):
  """The emulator fills what was never written, as a TPU may, with NaN."""
  function = functools.partial(
    _emulated,
    interpret=pltpu.InterpretParams(out_of_bounds_reads="uninitialized"),
  )
  inputs = _inputs(40, 128, 150, jnp.float32)
  _assert_equals_reference(function, inputs, options, 1e-5)


def test_two_cores_in_any_order_do_not_race():
  function = functools.partial(
    _emulated,
    interpret=pltpu.InterpretParams(
      detect_races=True,
      num_cores_or_threads=2,
      random_seed=1,
      out_of_bounds_reads="uninitialized",
    ),
  )
  inputs = _inputs(64, 128, 150, jnp.float32)
  _assert_equals_reference(function, inputs, PLAIN, 1e-5)
  assert not interpret_pallas_call.races.races_found


@pytest.mark.parametrize(
  "options",
  [PLAIN, {"soft_cap": None, "with_entropy": True}],
  ids=["plain", "entropy"],
)
def test_huge_logits_neither_overflow_nor_vanish(options):
  hidden, kernel, targets, cotangents = _inputs(8, 128, 150, jnp.float32)
  inputs = (hidden * 1e4, kernel, targets, cotangents)
  if options["with_entropy"]:  # exp(-1e4): 0 nats, and so is the gradient
    found = _statistics_and_gradients(_emulated, inputs, options)
    np.testing.assert_allclose(found.pop("entropy"), 0, atol=1e-6)
    assert all(np.isfinite(x).all() for x in found.values())
  else:
    _assert_equals_reference(_emulated, inputs, options, 1e-5)


@pytest.mark.parametrize("options", [PLAIN, CAPPED], ids=["plain", "capped"])
def test_where_all_tokens_are_ignored_gradients_are_zero(options):
  hidden, kernel, _, cotangents = _inputs(20, 128, 150, jnp.float32)
  inputs = (
    hidden,
    kernel,
    jnp.full(20, -1),
    jax.tree.map(jnp.zeros_like, cotangents),
  )
  found = _statistics_and_gradients(_emulated, inputs, options)
  np.testing.assert_array_equal(found["d hidden"], 0)
  np.testing.assert_array_equal(found["d kernel"], 0)


def test_logit_gradients_sum_to_the_cotangents():
  """The softmax sums to 1, the target is one column, the sum has V of them."""
  hidden, kernel, targets, cotangents = _inputs(1, 128, 150, jnp.float32)
  found = _statistics_and_gradients(
    _emulated, (hidden, kernel, targets, cotangents), PLAIN
  )
  a, b, s = (x[0] for x in cotangents[:3])
  np.testing.assert_allclose(
    found["d kernel"].sum(axis=1), hidden[0] * (a + b + 150 * s), rtol=1e-4
  )


def test_a_target_in_another_shard_matches_no_column():
  inputs = _inputs(3, 128, 130, jnp.float32)
  targets = jnp.array([-1, 130, 255])  # 255 is a column of the padded block
  inputs = (*inputs[:2], targets, inputs[3])
  found = _statistics_and_gradients(_emulated, inputs, PLAIN)
  wanted = _statistics_and_gradients(reference.token_statistics, inputs, PLAIN)
  np.testing.assert_array_equal(found["target_logit"], 0)
  np.testing.assert_array_equal(wanted["target_logit"], 0)
  np.testing.assert_allclose(found["d hidden"], wanted["d hidden"], rtol=1e-4)


def test_what_does_not_fit_the_tiles_is_refused():
  hidden, kernel, targets, _ = _inputs(3, 128, 130, jnp.float32)
  with pytest.raises(ValueError, match="width 100 is not a multiple of 128"):
    _emulated(hidden[:, :100], kernel[:100], targets, **PLAIN)
  with pytest.raises(ValueError, match="cast one of them"):
    _emulated(hidden.astype(jnp.bfloat16), kernel, targets, **PLAIN)
  with pytest.raises(ValueError, match="choose backend 'chunked'"):
    blocks_lib.choose_blocks(width=128 * 1024, itemsize=4, vmem_limit_bytes=64)


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_tiles_fit_every_chip_at_every_width_we_use(shape, chip):
  itemsize = jnp.dtype(shape.dtype).itemsize
  limit = int(pallas_tpu.VMEM_SHARE * ahead_of_time.vmem_bytes(chip))
  blocks = blocks_lib.choose_blocks(
    width=shape.width, itemsize=itemsize, vmem_limit_bytes=limit
  )
  needed = blocks_lib.vmem_bytes(blocks, width=shape.width, itemsize=itemsize)
  assert needed <= limit


def _needs(chip, shape, options):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  function = functools.partial(
    pallas_tpu.token_statistics_on_chip,
    **options,
    vmem_capacity_bytes=ahead_of_time.vmem_bytes(chip),
  )

  def loss(hidden, kernel, targets):
    statistics = function(hidden, kernel, targets)
    if options["with_entropy"]:
      return jnp.mean(statistics.entropy)
    return jnp.mean(statistics.logsumexp - statistics.target_logit)

  N, D, V = shape.num_tokens, shape.width, shape.vocab_size
  whole = ahead_of_time.PartitionSpec()
  return ahead_of_time.compile_for(
    jax.value_and_grad(loss, argnums=(0, 1)),
    ((N, D), shape.dtype, whole),
    ((D, V), shape.dtype, whole),
    ((N,), "int32", whole),
    mesh=ahead_of_time.mesh(chip.topology, (1,), ("data",)),
  )


@pytest.mark.tpu
@pytest.mark.parametrize(
  "shape, options, products",
  [
    (shapes.QUICKSTART, PLAIN, 8),
    (shapes.LLAMA_8B, PLAIN, 8),
    (shapes.QUICKSTART, CAPPED, 10),
  ],
)
def test_compiles_for_v5e_without_logits_in_memory(shape, options, products):
  needs = _needs(ahead_of_time.V5E, shape, options)
  N, D, V = shape.num_tokens, shape.width, shape.vocab_size
  # A few columns of numbers for each token, padded to 512 bytes a row.
  assert needs.temporaries < 8 * 512 * N
  assert needs.flops == pytest.approx(products * N * D * V, rel=0.02)


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
@pytest.mark.parametrize(
  "shape",
  [shapes.LLAMA_70B, shapes.DENSE_200B],
  ids=lambda shape: shape.name,
)
def test_the_head_of_a_large_model_needs_only_its_gradients(chip, shape):
  """The peak is arguments and gradients; plain XLA adds 8 GiB of logits."""
  needs = _needs(chip, shape, PLAIN)
  print(f"{shape.name} on {chip.name}: {needs}")
  assert needs.temporaries <= 32 * 2**20
  assert needs.peak <= 2 * needs.arguments + 32 * 2**20
  if shape == shapes.LLAMA_70B:
    assert needs.peak <= 8.3 * 2**30
