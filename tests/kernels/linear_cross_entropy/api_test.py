"""Token statistics: closed forms, and chunks that equal the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.linear_cross_entropy import api, chunked


def _inputs(seed, num_tokens, width, vocab_size):
  rng = np.random.default_rng(seed)
  return (
    jnp.asarray(rng.normal(size=(num_tokens, width)), jnp.float32),
    jnp.asarray(rng.normal(size=(width, vocab_size)), jnp.float32),
    jnp.asarray(rng.integers(0, vocab_size, num_tokens), jnp.int32),
  )


def test_statistics_equal_numpy_in_float64():
  hidden, kernel, targets = _inputs(0, 6, 4, 11)
  logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
  got = api.token_statistics(hidden, kernel, targets, backend="reference")
  np.testing.assert_allclose(
    got.logsumexp, np.log(np.exp(logits).sum(-1)), rtol=1e-5
  )
  np.testing.assert_allclose(
    got.target_logit, logits[np.arange(6), targets], rtol=1e-5
  )
  np.testing.assert_allclose(got.logit_sum, logits.sum(-1), rtol=1e-4)


@settings(max_examples=8, deadline=None)
@given(
  num_tokens=st.integers(1, 23),
  vocab_size=st.integers(2, 40),
  chunk_tokens=st.integers(1, 9),
  weights=st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_chunks_equal_the_whole_with_gradients(
  num_tokens, vocab_size, chunk_tokens, weights
):
  hidden, kernel, targets = _inputs(1, num_tokens, 5, vocab_size)

  def total(backend):
    def of(hidden, kernel):
      stats = api.token_statistics(hidden, kernel, targets, backend=backend)
      scale = jnp.arange(1, num_tokens + 1)
      return sum(w * (s * scale).sum() for w, s in zip(weights, stats))

    return jax.value_and_grad(of, argnums=(0, 1))(hidden, kernel)

  before = chunked.CHUNK_BYTES
  chunked.CHUNK_BYTES = 4 * vocab_size * chunk_tokens
  try:
    got = total("chunked")
  finally:
    chunked.CHUNK_BYTES = before
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(total("reference"))):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3)


def test_huge_logits_stay_finite():
  hidden, kernel, targets = _inputs(2, 4, 3, 7)
  got = api.token_statistics(hidden * 1e4, kernel, targets, backend="chunked")
  assert all(np.isfinite(x).all() for x in got)


def test_wrong_shapes_and_backends_are_refused():
  hidden, kernel, targets = _inputs(3, 4, 3, 7)
  with pytest.raises(ValueError, match="unknown backend"):
    api.token_statistics(hidden, kernel, targets, backend="magic")
  with pytest.raises(ValueError, match="do not fit"):
    api.token_statistics(hidden, kernel.T, targets, backend="chunked")
