"""Tokens split over some mesh axes, vocabulary over another.

Each device runs a backend on its tokens and its slice of the vocabulary; the
slices then meet in one maximum and three sums a token, four with the entropy. A Pallas kernel needs
this on more than one device: the compiler cannot split it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from kernels.linear_cross_entropy import reference


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  of_shard: Callable[..., reference.TokenStatistics],
  mesh: Mesh,
  token_axes: tuple[str, ...],
  length_axis: str | None,
  vocab_axis: str,
) -> reference.TokenStatistics:
  """As `reference.token_statistics`, on a mesh.

  Args:
    hidden: [..., D].
    kernel: [D, V].
    targets: int32 [...], in [0, V).
    of_shard: the same function of one device's [N, D] and [N]; a target outside its slice of
      the vocabulary must match no column.
    mesh: of the arrays; may be abstract inside jit.
    token_axes: mesh axes over which the first dimension is split; their sizes'
      product divides it.
    length_axis: mesh axis over which the second is split and whose size divides
      it, or None. Tokens become one dimension on each device: of all of them
      such a split cannot be told.
    vocab_axis: mesh axis over which V is split; its size divides V.

  Returns:
    TokenStatistics of [...], split as the tokens.
  """
  vocab_per_shard = kernel.shape[1] // mesh.shape[vocab_axis]

  def of_device(hidden, kernel, targets):
    first = jax.lax.axis_index(vocab_axis) * vocab_per_shard
    shard = of_shard(
      hidden.reshape(-1, hidden.shape[-1]),
      kernel,
      targets.reshape(-1) - first,
    )
    maximum = jax.lax.pmax(jax.lax.stop_gradient(shard.logsumexp), vocab_axis)
    normalizer = jax.lax.psum(jnp.exp(shard.logsumexp - maximum), vocab_axis)
    logsumexp = maximum + jnp.log(normalizer)
    entropy = None
    if shard.entropy is not None:
      # Of the choice of a shard, and within it.
      log_share = shard.logsumexp - logsumexp
      entropy = jax.lax.psum(
        jnp.exp(log_share) * (shard.entropy - log_share), vocab_axis
      )
    statistics = reference.TokenStatistics(
      logsumexp,
      jax.lax.psum(shard.target_logit, vocab_axis),
      jax.lax.psum(shard.logit_sum, vocab_axis),
      entropy,
    )
    return jax.tree.map(lambda x: x.reshape(targets.shape), statistics)

  tokens = PartitionSpec(token_axes)
  if length_axis is not None:
    tokens = PartitionSpec(token_axes, length_axis)
  return jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(tokens, PartitionSpec(None, vocab_axis), tokens),
    out_specs=tokens,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(hidden, kernel, targets)
