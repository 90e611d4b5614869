"""Tokens and vocabulary over eight devices: the same numbers as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kernels.linear_cross_entropy import blocks as blocks_lib
from kernels.linear_cross_entropy import (
  chunked,
  pallas_tpu,
  reference,
  sharded,
)

_BACKENDS = {
  "chunked": functools.partial(chunked.token_statistics, chunk_tokens=3),
  "pallas_tpu": functools.partial(
    pallas_tpu.token_statistics,
    blocks=blocks_lib.Blocks(tokens=16, vocab=128, held=16, streamed=128),
    vmem_limit_bytes=1 << 26,
    interpret=True,
  ),
}


@pytest.mark.parametrize("backend", _BACKENDS)
def test_sharded_equals_unsharded_with_gradients(backend):
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(16, 128)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(128, 60)) / 4, jnp.float32)
  targets = jnp.asarray(rng.integers(0, 60, 16), jnp.int32)
  cotangents = reference.TokenStatistics(
    *jnp.asarray(rng.normal(size=(3, 16)), jnp.float32)
  )

  def both(function, hidden, kernel):
    statistics, pullback = jax.vjp(
      lambda *x: function(*x, targets), hidden, kernel
    )
    return *statistics, *pullback(cotangents)

  function = functools.partial(
    sharded.token_statistics,
    of_shard=_BACKENDS[backend],
    mesh=mesh,
    token_axes=("data", "fsdp"),
    vocab_axis="tensor",
  )
  want = both(reference.token_statistics, hidden, kernel)
  got = jax.jit(functools.partial(both, function))(
    hidden,
    # As params live: width over fsdp, vocabulary over tensor.
    jax.device_put(
      kernel, NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    ),
  )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
