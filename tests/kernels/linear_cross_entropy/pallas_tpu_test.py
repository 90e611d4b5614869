"""The TPU kernels, emulated on the CPU and compiled ahead of time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import pallas_tpu, reference, shapes

# Small, so that every grid has several steps in each direction.
BLOCKS = blocks_lib.Blocks(tokens=32, vocab=128, held=32, streamed=128)
_emulated = functools.partial(
  pallas_tpu.token_statistics,
  blocks=BLOCKS,
  vmem_limit_bytes=1 << 26,
  interpret=True,
)


def _inputs(num_tokens, width, vocab_size, dtype):
  rng = np.random.default_rng(num_tokens + width + vocab_size)
  hidden = rng.normal(size=(num_tokens, width))
  kernel = 3 * rng.normal(size=(width, vocab_size)) / width**0.5
  targets = rng.integers(0, vocab_size, num_tokens)
  targets[-1] = vocab_size - 1  # in the last, ragged block
  cotangents = rng.normal(size=(3, num_tokens))
  return (
    jnp.asarray(hidden, dtype),
    jnp.asarray(kernel, dtype),
    jnp.asarray(targets, jnp.int32),
    reference.TokenStatistics(*jnp.asarray(cotangents, jnp.float32)),
  )


def _assert_equals_reference(function, inputs, tolerance):
  """Relative L2 error of the three statistics and the two gradients."""
  hidden, kernel, targets, cotangents = inputs

  def both(function):
    statistics, pullback = jax.vjp(
      lambda *x: function(*x, targets), hidden, kernel
    )
    return *statistics, *pullback(cotangents)

  names = (*reference.TokenStatistics._fields, "d hidden", "d kernel")
  for name, got, want in zip(
    names, jax.jit(both, static_argnums=0)(function), both(_reference)
  ):
    assert got.dtype == want.dtype
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < tolerance, f"{name}: {error:.1e}"


_reference = reference.token_statistics


# Float32 sums in another order: some 1e-7 each. In bfloat16 the logit gradients
# are rounded to 8 bits before the product, 2^-9 = 2e-3 on average.
@settings(max_examples=6, deadline=None)
@given(
  num_tokens=st.integers(1, 80),
  width=st.sampled_from([128, 256]),
  vocab_size=st.integers(2, 300),
  dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_statistics_and_gradients_equal_the_reference(
  num_tokens, width, vocab_size, dtype
):
  inputs = _inputs(num_tokens, width, vocab_size, jnp.dtype(dtype))
  tolerance = 1e-5 if dtype == "float32" else 6e-3
  _assert_equals_reference(_emulated, inputs, tolerance)


def test_what_lies_beyond_the_vocabulary_is_never_used():
  """The emulator fills what was never written, as a TPU may, with NaN."""
  function = functools.partial(
    pallas_tpu.token_statistics,
    blocks=BLOCKS,
    vmem_limit_bytes=1 << 26,
    interpret=pltpu.InterpretParams(out_of_bounds_reads="uninitialized"),
  )
  _assert_equals_reference(function, _inputs(40, 128, 150, jnp.float32), 1e-5)


def test_huge_logits_neither_overflow_nor_vanish():
  hidden, kernel, targets, cotangents = _inputs(8, 128, 150, jnp.float32)
  inputs = (hidden * 1e4, kernel, targets, cotangents)
  _assert_equals_reference(_emulated, inputs, 1e-5)


def test_a_target_in_another_shard_matches_no_column():
  hidden, kernel, _, _ = _inputs(3, 128, 130, jnp.float32)
  targets = jnp.array([-1, 130, 255])  # 255 is a column of the padded block
  got = _emulated(hidden, kernel, targets)
  np.testing.assert_array_equal(got.target_logit, 0)
  np.testing.assert_array_equal(_reference(hidden, kernel, targets)[1], 0)


def test_what_does_not_fit_the_tiles_is_refused():
  hidden, kernel, targets, _ = _inputs(3, 128, 130, jnp.float32)
  with pytest.raises(ValueError, match="width 100 is not a multiple of 128"):
    _emulated(hidden[:, :100], kernel[:100], targets)
  with pytest.raises(ValueError, match="cast one of them"):
    _emulated(hidden.astype(jnp.bfloat16), kernel, targets)
  with pytest.raises(ValueError, match="choose backend 'chunked'"):
    blocks_lib.choose_blocks(width=128 * 1024, itemsize=4, vmem_limit_bytes=64)


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("chip", ["TPU_V5E", "TPU_V5P", "TPU_V6E", "TPU_7X"])
def test_tiles_fit_every_chip_at_every_width_we_use(shape, chip):
  info = pltpu.get_tpu_info_for_chip(getattr(pltpu.ChipVersion, chip), 1)
  itemsize = jnp.dtype(shape.dtype).itemsize
  limit = int(pallas_tpu.VMEM_SHARE * info.vmem_capacity_bytes)
  blocks = blocks_lib.choose_blocks(
    width=shape.width, itemsize=itemsize, vmem_limit_bytes=limit
  )
  needed = blocks_lib.vmem_bytes(blocks, width=shape.width, itemsize=itemsize)
  assert needed <= limit


@pytest.mark.tpu
@pytest.mark.parametrize(
  "shape",
  [shapes.QUICKSTART, shapes.LLAMA_8B],
  ids=lambda shape: shape.name,
)
def test_compiles_for_v5e_without_logits_in_memory(shape, monkeypatch):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
  topology = topologies.get_topology_desc(
    topology_name="v5e:2x2", platform="tpu"
  )
  info = pltpu.get_tpu_info_for_chip(pltpu.ChipVersion.TPU_V5E, 1)
  limit = int(pallas_tpu.VMEM_SHARE * info.vmem_capacity_bytes)
  dtype = jnp.dtype(shape.dtype)
  function = functools.partial(
    pallas_tpu.token_statistics,
    blocks=blocks_lib.choose_blocks(
      width=shape.width, itemsize=dtype.itemsize, vmem_limit_bytes=limit
    ),
    vmem_limit_bytes=limit,
    interpret=False,
  )

  def loss(hidden, kernel, targets):
    statistics = function(hidden, kernel, targets)
    return jnp.mean(statistics.logsumexp - statistics.target_logit)

  mesh = Mesh(np.array(topology.devices[:1]), ("data",))
  sharding = NamedSharding(mesh, PartitionSpec())
  N, D, V = shape.num_tokens, shape.width, shape.vocab_size
  arguments = [
    jax.ShapeDtypeStruct(size, of, sharding=sharding)
    for size, of in (((N, D), dtype), ((D, V), dtype), ((N,), jnp.int32))
  ]
  compiled = (
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    .lower(*arguments)
    .compile()
  )
  # A few columns of numbers for each token, padded to 512 bytes a row.
  assert compiled.memory_analysis().temp_size_in_bytes < 8 * 512 * N
  assert compiled.cost_analysis()["flops"] == pytest.approx(
    10 * N * D * V, rel=0.01
  )
