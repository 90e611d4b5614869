"""Grouped products: backends agree, empty groups, rows of none, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ahead_of_time
from kernels.grouped_matmul import api, megablox_tpu, reference

_EMULATED = functools.partial(megablox_tpu.grouped_matmul, interpret=True)
_RAGGED = api.BACKENDS["ragged"]


def _inputs(group_sizes, num_rows, width, output_width):
  rng = np.random.default_rng(num_rows)
  shapes = (num_rows, width), (len(group_sizes), width, output_width)
  return (
    *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes),
    jnp.asarray(group_sizes, jnp.int32),
  )


def _assert_equals_reference(function, inputs):
  @functools.partial(jax.jit, static_argnums=0)
  def both(function):
    output, pullback = jax.vjp(lambda *x: function(*x, inputs[2]), *inputs[:2])
    return output, *pullback(jnp.cos(output))

  for a, b in zip(both(function), both(reference.grouped_matmul)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_loop_over_groups_gives_the_reference():
  rows, matrices, sizes = _inputs([3, 0, 4], 9, 5, 6)
  want = np.zeros((9, 6))
  want[:3] = rows[:3] @ matrices[0]
  want[3:7] = rows[3:7] @ matrices[2]
  got = reference.grouped_matmul(rows, matrices, sizes)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(
  sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
  spare=st.integers(1, 5),
)
def test_ragged_equals_the_reference_with_gradients(sizes, spare):
  _assert_equals_reference(_RAGGED, _inputs(sizes, sum(sizes) + spare, 5, 6))


@pytest.mark.parametrize("sizes", [[100, 0, 57, 3], [0, 0, 160, 40]])
def test_megablox_equals_the_reference_with_gradients(sizes):
  """Borders inside tiles, an empty group, rows of no group, odd widths."""
  _assert_equals_reference(_EMULATED, _inputs(sizes, 210, 130, 200))


def test_what_cannot_run_is_refused():
  rows, matrices, sizes = _inputs([2, 2], 4, 5, 6)
  with pytest.raises(ValueError, match="unknown backend"):
    api.grouped_matmul(rows, matrices, sizes, backend="magic")
  with pytest.raises(ValueError, match="needs a TPU"):
    api.grouped_matmul(rows, matrices, sizes, backend="megablox_tpu")
  with pytest.raises(ValueError, match="do not fit"):
    api.grouped_matmul(rows, matrices, sizes[:1], backend="ragged")


# Experts of the fine-grained 200B design: D 4,096, F 1,536, 128 over 8 devices.
@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "chip", ahead_of_time.CHIPS, ids=lambda chip: chip.name
)
def test_compiles_for_each_chip(chip):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  M, D, F, E = 8192, 4096, 1536, 16

  def loss(rows, matrices, group_sizes):
    output = megablox_tpu.grouped_matmul(
      rows, matrices, group_sizes, interpret=False
    )
    return jnp.sum(output * jnp.cos(output), dtype=jnp.float32)

  whole = ahead_of_time.PartitionSpec()
  needs = ahead_of_time.compile_for(
    jax.value_and_grad(loss, argnums=(0, 1)),
    ((M, D), "bfloat16", whole),
    ((E, D, F), "bfloat16", whole),
    ((E,), "int32", whole),
    mesh=ahead_of_time.mesh(chip.topology, (1,), ("data",)),
  )
  print(f"{chip.name}: {needs}")
  # One more array of the size of rows or of the output at a time, not E.
  assert needs.temporaries <= 4 * M * D * 2
