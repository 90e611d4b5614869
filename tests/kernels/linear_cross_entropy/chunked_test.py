"""Chunks of tokens: equal to the whole, and no tokens cross devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kernels.linear_cross_entropy import chunked, reference

_PLAIN = {"soft_cap": None, "with_entropy": False}


def _inputs(num_tokens, width, vocab_size, dtype=jnp.float32):
  rng = np.random.default_rng(num_tokens + vocab_size)
  return (
    jnp.asarray(rng.normal(size=(num_tokens, width)), dtype),
    jnp.asarray(rng.normal(size=(width, vocab_size)), dtype),
    jnp.asarray(rng.integers(0, vocab_size, num_tokens), jnp.int32),
  )


def _value_and_gradients(function, hidden, kernel, targets, scales):
  def total(hidden, kernel):
    statistics = function(hidden, kernel, targets)
    weights = jnp.linspace(0.5, 2, len(targets))
    statistics = jax.tree.leaves(statistics)
    return sum(a * (weights * b).sum() for a, b in zip(scales, statistics))

  return jax.value_and_grad(total, argnums=(0, 1))(hidden, kernel)


@settings(max_examples=6, deadline=None)
@given(
  num_tokens=st.integers(1, 23),
  vocab_size=st.integers(2, 40),
  chunk_tokens=st.integers(1, 30),
  scales=st.tuples(*[st.floats(-2, 2)] * 4),
  soft_cap=st.sampled_from([None, 2.0]),
  with_entropy=st.booleans(),
)
def test_chunks_equal_the_whole_with_gradients(
  num_tokens, vocab_size, chunk_tokens, scales, soft_cap, with_entropy
):
  inputs = _inputs(num_tokens, 5, vocab_size)
  options = {"soft_cap": soft_cap, "with_entropy": with_entropy}
  of_chunks = functools.partial(
    chunked.token_statistics, **options, chunk_tokens=chunk_tokens
  )
  whole = functools.partial(reference.token_statistics, **options)
  got = _value_and_gradients(of_chunks, *inputs, scales)
  want = _value_and_gradients(whole, *inputs, scales)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_bfloat16_kernel_is_added_up_in_float32():
  """4,096 chunks of one token that each add 2^-10 to a sum that reaches 4.

  Added up in bfloat16, with 8 bits, the sum would stop growing at 1/4.
  """
  num_tokens = 4096
  hidden = jnp.full((num_tokens, 1), 2.0**-10, jnp.bfloat16)
  kernel = jnp.zeros((1, 2), jnp.bfloat16)
  targets = jnp.zeros(num_tokens, jnp.int32)

  def total(kernel):
    return chunked.token_statistics(
      hidden, kernel, targets, **_PLAIN, chunk_tokens=1
    ).target_logit.sum()

  np.testing.assert_array_equal(jax.grad(total)(kernel), [[4.0, 0.0]])


def test_no_tokens_cross_devices():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  hidden, kernel, targets = _inputs(64, 4, 6)
  of_tokens = NamedSharding(mesh, PartitionSpec("data"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  compiled = (
    jax.jit(
      functools.partial(chunked.token_statistics, **_PLAIN, chunk_tokens=16),
      in_shardings=(of_tokens, everywhere, of_tokens),
    )
    .lower(hidden, kernel, targets)
    .compile()
  )
  text = compiled.as_text()
  for collective in ("all-gather", "all-to-all", "collective-permute"):
    assert collective not in text
  statistics = compiled(hidden, kernel, targets)
  assert statistics.logsumexp.sharding.is_equivalent_to(of_tokens, 1)
