"""Token statistics: closed forms, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.sharding import AxisType

from kernels.linear_cross_entropy import api


def _inputs(seed, num_tokens, width, vocab_size):
  rng = np.random.default_rng(seed)
  return (
    jnp.asarray(rng.normal(size=(num_tokens, width)), jnp.float32),
    jnp.asarray(rng.normal(size=(width, vocab_size)), jnp.float32),
    jnp.asarray(rng.integers(0, vocab_size, num_tokens), jnp.int32),
  )


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_statistics_equal_numpy_in_float64(backend, soft_cap):
  hidden, kernel, targets = _inputs(0, 6, 4, 11)
  logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
  if soft_cap is not None:
    logits = soft_cap * np.tanh(logits / soft_cap)
  got = api.token_statistics(
    hidden,
    kernel,
    targets,
    backend=backend,
    soft_cap=soft_cap,
    with_entropy=True,
  )
  probabilities = scipy.special.softmax(logits, axis=-1)
  np.testing.assert_allclose(
    got.entropy, scipy.stats.entropy(probabilities, axis=-1), rtol=1e-5
  )
  np.testing.assert_allclose(
    got.logsumexp, np.log(np.exp(logits).sum(-1)), rtol=1e-5
  )
  np.testing.assert_allclose(
    got.target_logit, logits[np.arange(6), targets], rtol=1e-5
  )
  np.testing.assert_allclose(got.logit_sum, logits.sum(-1), rtol=1e-4)


def test_huge_logits_stay_finite():
  hidden, kernel, targets = _inputs(2, 4, 3, 7)
  got = api.token_statistics(
    hidden * 1e4, kernel, targets, backend="chunked", with_entropy=True
  )
  assert all(np.isfinite(x).all() for x in got)


def test_leading_dimensions_are_kept():
  hidden, kernel, targets = _inputs(2, 6, 3, 7)
  want = api.token_statistics(hidden, kernel, targets, backend="chunked")
  got = api.token_statistics(
    hidden.reshape(2, 3, 3), kernel, targets.reshape(2, 3), backend="chunked"
  )
  for a, b in zip(got[:3], want[:3]):
    np.testing.assert_array_equal(a, b.reshape(2, 3))


def test_what_cannot_run_is_refused():
  hidden, kernel, targets = _inputs(3, 4, 3, 7)
  with pytest.raises(ValueError, match="unknown backend"):
    api.token_statistics(hidden, kernel, targets, backend="magic")
  with pytest.raises(ValueError, match="do not fit"):
    api.token_statistics(hidden, kernel.T, targets, backend="chunked")
  with pytest.raises(ValueError, match="needs a TPU.*choose 'chunked'"):
    api.token_statistics(hidden, kernel, targets, backend="pallas_tpu")
  with pytest.raises(ValueError, match="soft_cap 0 is not above 0"):
    api.token_statistics(hidden, kernel, targets, backend="chunked", soft_cap=0)
  assert api.default_backend() == "chunked"


def test_a_mesh_that_does_not_divide_is_refused():
  mesh = jax.make_mesh(
    (2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2
  )
  split = functools.partial(
    api.sharded_token_statistics,
    backend="chunked",
    mesh=mesh,
    token_axes=("data",),
    length_axis=None,
    vocab_axis="tensor",
  )
  with pytest.raises(ValueError, match="vocabulary of 7 .* pad it to 8"):
    split(*_inputs(4, 4, 3, 7))
  with pytest.raises(ValueError, match="hidden of 3 .* 2 shards"):
    split(*_inputs(4, 3, 3, 8))
  inputs = _inputs(4, 4, 3, 8)
  want = api.token_statistics(*inputs, backend="reference")
  for a, b in zip(split(*inputs)[:3], want[:3]):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
