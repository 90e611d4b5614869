"""Tokens and vocabulary over eight devices: the same numbers as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kernels import ahead_of_time
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


@pytest.mark.parametrize(
  "soft_cap, with_entropy", [(None, False), (None, True), (2.0, True)]
)
@pytest.mark.parametrize("backend", _BACKENDS)
def test_sharded_equals_unsharded_with_gradients(
  backend, soft_cap, with_entropy
):
  options = {"soft_cap": soft_cap, "with_entropy": with_entropy}
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(16, 128)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(128, 60)) / 4, jnp.float32)
  targets = jnp.asarray(rng.integers(0, 60, 16), jnp.int32)
  cotangents = reference.TokenStatistics(
    *jnp.asarray(rng.normal(size=(3 + with_entropy, 16)), jnp.float32)
  )

  def both(function, hidden, kernel):
    statistics, pullback = jax.vjp(
      lambda *x: function(*x, targets), hidden, kernel
    )
    return jax.tree.leaves((statistics, pullback(cotangents)))

  function = functools.partial(
    sharded.token_statistics,
    of_shard=functools.partial(_BACKENDS[backend], **options),
    mesh=mesh,
    token_axes=("data", "fsdp"),
    length_axis=None,
    vocab_axis="tensor",
  )
  whole = functools.partial(reference.token_statistics, **options)
  want = both(whole, hidden, kernel)
  got = jax.jit(functools.partial(both, function))(
    hidden,
    # As params live: width over fsdp, vocabulary over tensor.
    jax.device_put(
      kernel, NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    ),
  )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.tpu
@pytest.mark.slow
def test_sixteen_chips_need_only_their_gradients():
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  mesh = ahead_of_time.mesh("v5p:2x2x4", (2, 8), ("data", "tensor"))
  function = functools.partial(
    sharded.token_statistics,
    of_shard=functools.partial(
      pallas_tpu.token_statistics_on_chip,
      soft_cap=None,
      with_entropy=False,
      vmem_capacity_bytes=ahead_of_time.vmem_bytes(ahead_of_time.V5P),
    ),
    mesh=mesh,
    token_axes=("data",),
    length_axis=None,
    vocab_axis="tensor",
  )

  def loss(hidden, kernel, targets):
    statistics = function(hidden, kernel, targets)
    return jnp.mean(statistics.logsumexp - statistics.target_logit)

  needs = ahead_of_time.compile_for(
    jax.value_and_grad(loss, argnums=(0, 1)),
    ((16384, 8192), "bfloat16", PartitionSpec("data")),
    ((8192, 262144), "bfloat16", PartitionSpec(None, "tensor")),
    ((16384,), "int32", PartitionSpec("data")),
    mesh=mesh,
  )
  assert needs.temporaries <= 32 * 2**20
