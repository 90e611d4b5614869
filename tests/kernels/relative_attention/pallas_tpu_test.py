"""The TPU kernels, emulated on the CPU and compiled ahead of time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from kernels import ahead_of_time
from kernels.relative_attention import (
  blocks,
  buckets,
  pallas_tpu,
  reference,
  shapes,
)


def _inputs(B, T, S, N, H, dtype, num_segments):
  rng = np.random.default_rng(T + S)
  query, key, value = (
    jnp.asarray(rng.normal(size=(B, length, N, H)) / 2, dtype)
    for length in (T, S, S)
  )
  table = jnp.asarray(rng.normal(size=(N, 32)), jnp.float32)
  query_segments, key_segments = (
    jnp.asarray(np.sort(rng.integers(0, num_segments, (B, length))), jnp.int32)
    for length in (T, S)
  )
  return query, key, value, table, query_segments, key_segments


def _emulated(*operands, interpret=True, **options):
  return pallas_tpu.relative_attention(
    *operands,
    **options,
    block=128,
    vmem_limit_bytes=1 << 26,
    interpret=interpret,
  )


def _table_terms(inputs, options, cotangent):
  """What adds up to the table's gradient: that of each logit's bias."""
  query, key, value, table, query_segments, key_segments = inputs
  delta = np.arange(key.shape[1]) - np.arange(query.shape[1])[:, None]
  ids = buckets.bucket(delta, num_buckets=table.shape[1], **options)
  mask = query_segments[:, :, None] == key_segments[:, None, :]
  if options["is_causal"]:
    mask &= delta <= 0
  _, pullback = jax.vjp(
    lambda bias: reference.attend(query, key, value, bias, mask), table[:, ids]
  )
  return pullback(cotangent)[0]


def _assert_equals_reference(function, inputs, options, tolerance):
  """Relative L2 error of the output and the four gradients."""

  cotangent = jnp.cos(jnp.arange(inputs[0].size, dtype=jnp.float32))
  cotangent = cotangent.reshape(inputs[0].shape).astype(inputs[2].dtype)

  @functools.partial(jax.jit, static_argnums=0)
  def both(function):
    output, pullback = jax.vjp(
      lambda *x: function(*x, *inputs[4:], **options), *inputs[:4]
    )
    return output, *pullback(cotangent)

  names = ("output", "d query", "d key", "d value", "d table")
  expected = both(reference.relative_attention)
  # The gradients of a query's logits add up to 0: where it sees one key, those
  # by query, key and table are 0, and where most of its keys share a bucket, the
  # table's is small. An error is then a share of the terms that cancel.
  cancelling = np.linalg.norm(np.asarray(expected[3], np.float64))
  of_table = np.linalg.norm(_table_terms(inputs, options, cotangent))
  for name, got, want in zip(names, both(function), expected):
    assert got.dtype == want.dtype
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    scale = np.linalg.norm(want)
    if name == "d table":
      scale = max(scale, of_table)
    scale = scale or cancelling or 1.0  # nobody sees anything: all are 0
    error = np.linalg.norm(got - want) / scale
    assert error < tolerance, f"{name}: {error:.1e}"


# Float32 sums in another order: below 5e-6, the table's gradient the largest,
# as its terms cancel. In bfloat16 weights and logit gradients are rounded to 8
# bits before the products, by the reference in other places.
@settings(max_examples=3, deadline=None)
@example(1, 1, (2, 64), "float32", 20, False, 1)
@example(1, 1, (1, 128), "float32", 20, False, 3)
@example(1, 199, (1, 128), "float32", 20, False, 1)
@given(
  T=st.integers(1, 300),
  S=st.integers(1, 300),
  heads=st.sampled_from([(1, 128), (2, 64), (4, 32)]),
  dtype=st.sampled_from(["float32", "bfloat16"]),
  max_distance=st.sampled_from([20, 128, 200]),
  is_causal=st.booleans(),
  num_segments=st.integers(1, 4),
)
def test_output_and_gradients_equal_the_reference(
  T, S, heads, dtype, max_distance, is_causal, num_segments
):
  inputs = _inputs(1, T, S, *heads, jnp.dtype(dtype), num_segments)
  options = {"max_distance": max_distance, "is_causal": is_causal}
  tolerance = 1e-5 if dtype == "float32" else 1e-2
  _assert_equals_reference(_emulated, inputs, options, tolerance)


def test_rows_and_groups_of_heads_keep_apart():
  """Bias tiles are made for a head's first row and used for the others."""
  inputs = _inputs(2, 260, 130, 2, 128, jnp.float32, 2)
  options = {"max_distance": 128, "is_causal": False}
  _assert_equals_reference(_emulated, inputs, options, 1e-5)


def test_two_cores_in_any_order_do_not_race():
  function = functools.partial(
    _emulated,
    interpret=pltpu.InterpretParams(
      detect_races=True, num_cores_or_threads=2, random_seed=1
    ),
  )
  inputs = _inputs(1, 256, 256, 2, 128, jnp.float32, 2)
  options = {"max_distance": 20, "is_causal": True}
  _assert_equals_reference(function, inputs, options, 1e-5)
  assert not interpret_pallas_call.races.races_found


@pytest.mark.parametrize("heads", [(3, 64), (2, 6), (1, 130)])
def test_heads_that_do_not_fill_the_lanes_are_padded(heads):
  inputs = _inputs(1, 10, 130, *heads, jnp.float32, 2)
  options = {"max_distance": 20, "is_causal": False}
  _assert_equals_reference(_emulated, inputs, options, 1e-5)


def test_mixed_dtypes_and_what_does_not_fit_the_memory_are_refused():
  options = {"max_distance": 128, "is_causal": False}
  query, *rest = _inputs(1, 4, 4, 2, 64, jnp.float32, 1)
  with pytest.raises(ValueError, match="cast them to one dtype"):
    _emulated(query.astype(jnp.bfloat16), *rest, **options)
  with pytest.raises(ValueError, match="choose backend 'chunked'"):
    blocks.choose_block(
      vmem_limit_bytes=1 << 26,
      length=1 << 20,
      head_width=64,
      itemsize=2,
      **options,
    )


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_tiles_fit_every_chip_at_every_shape_we_use(shape, chip):
  block = blocks.choose_block(
    vmem_limit_bytes=int(blocks.VMEM_SHARE * ahead_of_time.vmem_bytes(chip)),
    length=shape.length,
    head_width=shape.head_width,
    itemsize=jnp.dtype(shape.dtype).itemsize,
    max_distance=shapes.MAX_DISTANCE,
    is_causal=shape.is_causal,
  )
  assert block >= min(shape.length, 512)


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_compiles_without_the_bias_in_memory(chip):
  """At 64 heads of 4,096 slots the bias alone would be 4 GiB."""
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  shape = shapes.MT5_XXL_LONG
  B, T, N, H = shape[1:5]

  def loss(query, key, value, table, segments):
    # Side by side, as the projections before them give them.
    output = pallas_tpu.relative_attention_on_chip(
      *(x.reshape(B, T, N, H) for x in (query, key, value)),
      table,
      segments,
      segments,
      max_distance=shapes.MAX_DISTANCE,
      is_causal=shape.is_causal,
      vmem_capacity_bytes=ahead_of_time.vmem_bytes(chip),
    ).reshape(query.shape)
    return jnp.sum(output * jnp.cos(output), dtype=jnp.float32)

  whole = ahead_of_time.PartitionSpec()
  needs = ahead_of_time.compile_for(
    jax.value_and_grad(loss, argnums=(0, 1, 2, 3)),
    *[((B, T, N * H), shape.dtype, whole)] * 3,
    ((N, shapes.NUM_BUCKETS), "float32", whole),
    ((B, T), "int32", whole),
    mesh=ahead_of_time.mesh(chip.topology, (1,), ("data",)),
  )
  print(f"{shape.name} on {chip.name}: {needs}")
  assert needs.temporaries <= 0.05 * 4 * N * T * T
