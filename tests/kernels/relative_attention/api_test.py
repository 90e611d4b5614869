"""The specification against jax.nn, its chunks, packing, sharding, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from kernels.relative_attention import api, buckets, chunked, reference

ON_ONE_DEVICE = {"mesh": None, "batch_axes": (), "head_axes": ()}


def _inputs(B, T, S, N, H, seed=0):
  rng = np.random.default_rng(seed)
  query, key, value = (
    jnp.asarray(rng.normal(size=(B, length, N, H)), jnp.float32)
    for length in (T, S, S)
  )
  table = jnp.asarray(rng.normal(size=(N, 8)), jnp.float32)
  query_segments, key_segments = (
    jnp.asarray(np.sort(rng.integers(0, 3, (B, length))), jnp.int32)
    for length in (T, S)
  )
  return query, key, value, table, query_segments, key_segments


@functools.partial(jax.jit, static_argnums=0)
def _output_and_gradients(function, inputs):
  output, pullback = jax.vjp(lambda *x: function(*x, *inputs[4:]), *inputs[:4])
  return output, *pullback(jnp.cos(output))


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_equals_that_of_jax_with_the_bias_written_out(is_causal):
  *operands, table, segments, _ = _inputs(2, 20, 20, 3, 4)
  delta = np.arange(20) - np.arange(20)[:, None]
  ids = buckets.bucket(
    delta, num_buckets=8, max_distance=12, is_causal=is_causal
  )
  mask = segments[:, None, :, None] == segments[:, None, None, :]
  want = jax.nn.dot_product_attention(
    *operands, bias=table[:, ids], mask=mask, scale=1.0, is_causal=is_causal
  )
  for backend in ("reference", "chunked"):
    got = api.relative_attention(
      *operands,
      table,
      segments,
      segments,
      max_distance=12,
      is_causal=is_causal,
      backend=backend,
      **ON_ONE_DEVICE,
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(
  T=st.integers(1, 20),
  S=st.integers(1, 20),
  chunk_queries=st.integers(1, 25),
  is_causal=st.booleans(),
)
def test_chunks_equal_the_whole_with_gradients(T, S, chunk_queries, is_causal):
  inputs = _inputs(2, T, S, 2, 3, seed=T)
  options = {"max_distance": 9, "is_causal": is_causal}
  of_chunks = functools.partial(
    chunked.relative_attention, **options, chunk_queries=chunk_queries
  )
  whole = functools.partial(reference.relative_attention, **options)
  for a, b in zip(
    _output_and_gradients(of_chunks, inputs),
    _output_and_gradients(whole, inputs),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_packed_segment_attends_as_it_does_alone():
  query, key, value, table, _, _ = _inputs(1, 12, 12, 2, 4)
  segments = jnp.array([[1] * 5 + [2] * 7])
  attend = functools.partial(
    api.relative_attention,
    max_distance=9,
    is_causal=True,
    backend="reference",
    **ON_ONE_DEVICE,
  )
  packed = attend(query, key, value, table, segments, segments)
  for part in (slice(0, 5), slice(5, 12)):
    alone = attend(
      *(x[:, part] for x in (query, key, value)),
      table,
      *(segments[:, part],) * 2,
    )
    np.testing.assert_allclose(packed[:, part], alone, rtol=1e-5, atol=1e-5)


def test_a_query_that_sees_no_key_gets_zero_and_gives_no_gradient():
  query, key, value, table, _, key_segments = _inputs(1, 4, 6, 2, 4)
  inputs = query, key, value, table, jnp.full((1, 4), 7), key_segments
  attend = functools.partial(
    reference.relative_attention, max_distance=9, is_causal=False
  )
  for x in _output_and_gradients(attend, inputs):
    np.testing.assert_array_equal(x, 0)


def test_rows_and_heads_on_eight_devices_give_the_same():
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  inputs = _inputs(4, 9, 9, 2, 4)
  options = {"max_distance": 9, "is_causal": True, "backend": "chunked"}
  split = functools.partial(
    api.relative_attention,
    **options,
    mesh=mesh,
    batch_axes=("data", "fsdp"),
    head_axes=("tensor",),
  )
  whole = functools.partial(api.relative_attention, **options, **ON_ONE_DEVICE)
  for a, b in zip(
    _output_and_gradients(split, inputs), _output_and_gradients(whole, inputs)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="3 rows and 2 heads .* 4 and 2"):
    split(*_inputs(3, 9, 9, 2, 4))


def test_what_cannot_run_is_refused():
  inputs = _inputs(1, 4, 4, 2, 4)
  attend = functools.partial(
    api.relative_attention, max_distance=9, is_causal=False, **ON_ONE_DEVICE
  )
  with pytest.raises(ValueError, match="unknown backend"):
    attend(*inputs, backend="magic")
  with pytest.raises(ValueError, match="needs a TPU.*choose 'chunked'"):
    attend(*inputs, backend="pallas_tpu")
  with pytest.raises(ValueError, match="do not fit"):
    attend(*inputs[:3], inputs[3].T, *inputs[4:], backend="chunked")
