"""Splash attention, emulated, against jax.nn; meshes; refusals; compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from kernels import ahead_of_time, target
from kernels.causal_attention import (
  api,
  cudnn_gpu,
  reference,
  shapes,
  splash_tpu,
)


def _inputs(B, T, N, K, H):
  rng = np.random.default_rng(T)
  query, key, value = (
    jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32)
    for heads in (N, K, K)
  )
  segments = np.sort(rng.integers(0, 3, (B, T)))
  return query, key, value, jnp.asarray(segments, jnp.int32)


def _output_and_gradients(function, inputs):
  output, pullback = jax.vjp(lambda *x: function(*x, inputs[3]), *inputs[:3])
  return output, *pullback(jnp.cos(output))


# A length that is no multiple of 128, and heads that share keys.
def test_splash_equals_the_reference_with_gradients():
  inputs = _inputs(1, 200, 4, 2, 128)
  emulated = functools.partial(splash_tpu.causal_attention, interpret=True)
  got = jax.jit(functools.partial(_output_and_gradients, emulated))(inputs)
  want = _output_and_gradients(reference.causal_attention, inputs)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_cudnn_is_asked_for_the_attention_of_the_reference(monkeypatch):
  """Only what is handed over: cuDNN itself needs a GPU."""
  inputs, asked = _inputs(2, 10, 4, 2, 8), []
  plain = jax.nn.dot_product_attention

  def stand_in(*operands, implementation, **options):
    asked.append(implementation)
    return plain(*operands, implementation="xla", **options)

  want = reference.causal_attention(*inputs)
  monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
  got = cudnn_gpu.causal_attention(*inputs)
  assert asked == ["cudnn"]
  np.testing.assert_array_equal(got, want)


def test_a_mesh_gives_the_same_and_must_divide():
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  inputs = _inputs(4, 10, 4, 2, 8)
  attend = functools.partial(
    api.causal_attention,
    backend="reference",
    mesh=mesh,
    batch_axes=("data", "fsdp"),
    head_axis="tensor",
    length_axis=None,
  )
  np.testing.assert_allclose(
    jax.jit(attend)(*inputs),
    reference.causal_attention(*inputs),
    rtol=1e-5,
    atol=1e-5,
  )
  with pytest.raises(ValueError, match="4 rows, 1 key heads .* 4, 2 and 1"):
    attend(*_inputs(4, 10, 4, 1, 8))


# One emulated kernel a device; a key head of each, and half of the queries.
@pytest.mark.parametrize("backend", ["reference", "cudnn_gpu", "splash_tpu"])
def test_queries_split_over_devices_give_the_same(monkeypatch, backend):
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  make_kernel, plain = splash_tpu.make_kernel, jax.nn.dot_product_attention
  monkeypatch.setattr(target, "platform", lambda: backend.rpartition("_")[2])
  monkeypatch.setattr(
    splash_tpu,
    "make_kernel",
    lambda **options: make_kernel(**{**options, "interpret": True}),
  )
  monkeypatch.setattr(
    jax.nn,
    "dot_product_attention",
    lambda *operands, implementation, **options: plain(*operands, **options),
  )
  length = 512 if backend == "splash_tpu" else 16
  inputs = _inputs(2, length, 4, 2, 128)
  attend = functools.partial(
    api.causal_attention,
    backend=backend,
    mesh=mesh,
    batch_axes=("data",),
    head_axis="tensor",
    length_axis="sequence",
  )
  got = jax.jit(functools.partial(_output_and_gradients, attend))(inputs)
  want = _output_and_gradients(reference.causal_attention, inputs)
  assert got[0].sharding.spec == PartitionSpec("data", "sequence", "tensor")
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_queries_that_do_not_divide_are_refused_with_the_arithmetic():
  with pytest.raises(ValueError, match="multiple of 512 tokens"):
    splash_tpu.make_kernel(
      length=1280, num_heads=2, num_shards=4, interpret=True
    )
  mesh = jax.make_mesh((4,), ("sequence",), axis_types=(AxisType.Auto,))
  with pytest.raises(ValueError, match="10 queries .* 4 shards"):
    api.causal_attention(
      *_inputs(1, 10, 2, 2, 8),
      backend="reference",
      mesh=mesh,
      batch_axes=(),
      head_axis=None,
      length_axis="sequence",
    )


def test_what_cannot_run_is_refused():
  inputs = _inputs(1, 4, 4, 2, 8)
  attend = functools.partial(
    api.causal_attention,
    mesh=None,
    batch_axes=(),
    head_axis=None,
    length_axis=None,
  )
  with pytest.raises(ValueError, match="unknown backend"):
    attend(*inputs, backend="magic")
  with pytest.raises(ValueError, match="needs a TPU"):
    attend(*inputs, backend="splash_tpu")
  with pytest.raises(ValueError, match="needs a GPU"):
    attend(*inputs, backend="cudnn_gpu")
  with pytest.raises(ValueError, match="N a multiple of K"):
    attend(inputs[0][:, :, :3], *inputs[1:], backend="reference")


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_compiles_without_logits_in_memory(chip, shape):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  _, B, T, N, K, H = shape

  def loss(query, key, value, segments):
    output = splash_tpu.causal_attention(
      query, key, value, segments, interpret=False
    )
    return jnp.sum(output * jnp.cos(output), dtype=jnp.float32)

  whole = ahead_of_time.PartitionSpec()
  needs = ahead_of_time.compile_for(
    jax.value_and_grad(loss, argnums=(0, 1, 2)),
    ((B, T, N, H), "bfloat16", whole),
    *[((B, T, K, H), "bfloat16", whole)] * 2,
    ((B, T), "int32", whole),
    mesh=ahead_of_time.mesh(chip.topology, (1,), ("data",)),
  )
  print(f"{shape.name} on {chip.name}: {needs}")
  assert needs.temporaries < 0.2 * 4 * B * N * T * T
