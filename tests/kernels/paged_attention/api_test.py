"""Attention over pages: a loop, jax's kernel, meshes; refusals; compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import (
  kernel as jax_kernel,
)
from jax.sharding import AxisType

from kernels import ahead_of_time
from kernels.paged_attention import api, ragged_tpu, reference, shapes

N, HEADS, K, S, M = 4, 6, 2, 4, 5
ON_ONE = {"mesh": None, "batch_axes": (), "head_axis": None}
_attend = jax.jit(
  functools.partial(api.paged_attention, backend="reference", **ON_ONE)
)


def _inputs(lengths, is_new, *, slots=S, width=8, num_pages=N * M):
  """Rows 2 i and 2 i + 1 share their first page; junk follows the lengths."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  table = np.arange(N * M).reshape(2, 2, M)
  table[:, 1, 0] = table[:, 0, 0]
  return (
    normal(N, HEADS, width),
    normal(N, K, width),
    normal(N, K, width),
    normal(num_pages, slots, 2 * K, width),
    jnp.asarray(table.reshape(N, M), jnp.int32),
    jnp.asarray(lengths, jnp.int32),
    jnp.asarray(is_new, bool),
  )


def _loop(query, key, value, pages, table, lengths, is_new):
  """Outputs and pages, token by token in float64."""
  pages, outputs = np.array(pages, np.float64), []
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  slots = pages.shape[1]
  for row, length in enumerate(np.asarray(lengths)):
    if is_new[row]:
      place = pages[table[row, length // slots], length % slots]
      place[0::2], place[1::2] = key[row], value[row]
  for row, length in enumerate(np.asarray(lengths + is_new)):
    of_row = np.concatenate(pages[np.asarray(table[row])])[: max(length, 1)]
    keys, values = (
      np.repeat(of_row[:, part::2], HEADS // K, axis=1) for part in (0, 1)
    )
    logits = np.einsum("nh,tnh->nt", query[row], keys)
    weights = np.exp(logits / query.shape[-1] ** 0.5)
    weights /= weights.sum(axis=1, keepdims=True)
    outputs.append(np.einsum("nt,tnh->nh", weights, values))
  return np.stack(outputs), pages


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
  lengths=st.lists(st.integers(0, S * M - 1), min_size=N, max_size=N),
  is_new=st.lists(st.booleans(), min_size=N, max_size=N),
)
def test_a_loop_over_tokens_gives_the_reference(lengths, is_new):
  # None in the page that rows share, but where a row has no token to write.
  lengths = [max(n, S) if new else n for n, new in zip(lengths, is_new)]
  inputs = _inputs(lengths, is_new)
  for got, want in zip(_attend(*inputs), _loop(*inputs)):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_kernel_emulated_equals_the_reference(monkeypatch):
  """But for a reshape of a reference, which the emulator of 0.10.2 lacks.

  The pages that the kernel has waited for are read before they are reshaped.
  """
  descriptor = jax_kernel.MultiPageAsyncCopyDescriptor
  wait = descriptor.wait
  monkeypatch.setattr(descriptor, "wait", lambda self: wait(self)[...])
  monkeypatch.setattr(ragged_tpu, "_BLOCK", 32)  # two pages
  monkeypatch.setattr(ragged_tpu, "_QUERIES", 3)  # not a divisor of the rows
  query, _, _, pages, table, lengths, _ = _inputs(
    [5, 1, 70, 33], [True] * N, slots=16, width=128
  )
  with pltpu.force_tpu_interpret_mode():
    got = ragged_tpu.attend(query, pages, table, lengths)
  want = reference.attend(query, pages, table, lengths)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_mesh_gives_the_same_and_must_divide():
  """Rows, each with pages of its own shard, over data; heads over tensor."""
  mesh = jax.make_mesh(
    (2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2
  )
  on_mesh = {"mesh": mesh, "batch_axes": ("data",), "head_axis": "tensor"}
  attend = functools.partial(
    api.paged_attention, backend="reference", **on_mesh
  )
  inputs = _inputs([7, 9, 0, 19], [True, True, False, True])
  for got, want in zip(jax.jit(attend)(*inputs), _attend(*inputs)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  pages = inputs[3]
  indices = jnp.array([3, 10, len(pages), 19])
  got = jax.jit(functools.partial(api.write_pages, **on_mesh))(
    pages, indices, pages[:4]
  )
  want = pages.at[jnp.array([3, 10, 19])].set(pages[jnp.array([0, 1, 3])])
  np.testing.assert_array_equal(got, want)
  odd = _inputs([4] * N, [True] * N, num_pages=N * M + 1)
  with pytest.raises(ValueError, match="4 rows, 21 pages .* 2, 2 and 2"):
    attend(*odd)
  with pytest.raises(ValueError, match="0 rows, 21 pages"):
    api.write_pages(odd[3], indices, pages[:4], **on_mesh)


def test_what_cannot_run_is_refused():
  inputs = _inputs([4] * N, [True] * N)
  attend = functools.partial(api.paged_attention, **ON_ONE)
  with pytest.raises(ValueError, match="unknown backend"):
    attend(*inputs, backend="magic")
  with pytest.raises(ValueError, match="needs a TPU .* choose 'reference'"):
    attend(*inputs, backend="ragged_tpu")
  with pytest.raises(ValueError, match="n a multiple of K"):
    attend(inputs[0][:, :5], *inputs[1:], backend="reference")
  with pytest.raises(ValueError, match="head width 8 must be a multiple"):
    ragged_tpu.attend(inputs[0], *inputs[3:6])


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_compiles_without_a_copy_of_the_pages(chip, shape):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  mesh = ahead_of_time.mesh(chip.topology, (1,), ("data",))
  _, rows, heads, kv_heads, width, slots, row_pages = shape
  whole = jax.sharding.NamedSharding(mesh, ahead_of_time.PartitionSpec())
  pool = (rows * row_pages, slots, 2 * kv_heads, width)
  abstract = (
    jax.ShapeDtypeStruct(of, dtype, sharding=whole)
    for of, dtype in (
      ((rows, heads, width), "bfloat16"),
      *[((rows, kv_heads, width), "bfloat16")] * 2,
      (pool, "bfloat16"),
      ((rows, row_pages), "int32"),
      ((rows,), "int32"),
      ((rows,), "bool"),
    )
  )
  with jax.set_mesh(mesh):
    attend = functools.partial(
      api.paged_attention, backend="ragged_tpu", **ON_ONE
    )
    needs = ahead_of_time.needs(
      jax.jit(attend, donate_argnums=3).lower(*abstract)
    )
  print(f"{shape.name} on {chip.name}: {needs}")
  assert needs.temporaries < 0.05 * 2 * np.prod(pool)
