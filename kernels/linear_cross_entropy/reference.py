"""The specification: statistics of whole float32 logits.

Cost: 2 N D V FLOPs forward, 4 N D V backward, 4 N V bytes for the logits.
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


def token_statistics(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> TokenStatistics:
  """Statistics of logits = hidden @ kernel.

  Args:
    hidden: [N, D].
    kernel: [D, V].
    targets: int32 [N], in [0, V).

  Returns:
    TokenStatistics of [N].
  """
  logits = jnp.einsum(
    "ND,DV->NV", hidden, kernel, preferred_element_type=jnp.float32
  )
  return TokenStatistics(
    logsumexp=jax.nn.logsumexp(logits, axis=-1),
    target_logit=jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0],
    logit_sum=logits.sum(axis=-1),
  )
