"""The specification: statistics of whole float32 logits.

Cost: 2 N D V FLOPs forward, 4 N D V backward, 4 N V bytes for the logits.

Letters: N tokens, D width, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenStatistics(NamedTuple):
  """What losses need of a token's logits, float32 each.

  NLL = logsumexp - target_logit; z-loss = logsumexp^2; label smoothing uses
  logit_sum; log-probability = target_logit - logsumexp.
  """

  logsumexp: jax.Array
  target_logit: jax.Array
  logit_sum: jax.Array


def logits(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
  """hidden [N, D] @ kernel [D, V], added up in float32."""
  return jnp.einsum(
    "ND,DV->NV", hidden, kernel, preferred_element_type=jnp.float32
  )


def token_statistics(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> TokenStatistics:
  """Statistics of logits = hidden @ kernel.

  A target outside [0, V) matches no column: its target_logit is 0. That is
  what a shard of the vocabulary needs of targets that lie in another shard.

  Args:
    hidden: [N, D].
    kernel: [D, V].
    targets: int32 [N].

  Returns:
    TokenStatistics of [N].
  """
  logits_NV = logits(hidden, kernel)
  is_target = jnp.arange(kernel.shape[1]) == targets[:, None]
  return TokenStatistics(
    logsumexp=jax.nn.logsumexp(logits_NV, axis=-1),
    target_logit=jnp.where(is_target, logits_NV, 0).sum(axis=-1),
    logit_sum=logits_NV.sum(axis=-1),
  )
