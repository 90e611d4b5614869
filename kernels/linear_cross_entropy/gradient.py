"""The gradient of a loss by logits, from statistics and their cotangents.

With p = exp(z - logsumexp) and cotangents a, b, s, h of the four statistics, a
column z of a token's logits has the gradient

  p (a - h (log p + entropy)) + [z is the target's] b + s

and what was capped, z = c tanh(u / c), passes on 1 - (z / c)^2 of it.
"""

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy.reference import TokenStatistics


def of_products(
  logits: jax.Array,
  is_target: jax.Array,
  statistics: TokenStatistics,
  cotangents: TokenStatistics,
  soft_cap: float | None,
) -> jax.Array:
  """The gradient by hidden @ kernel, float32 [N, V].

  Args:
    logits: float32 [N, V], capped.
    is_target: bool [N, V].
    statistics: of [N, 1].
    cotangents: of [N, 1].
    soft_cap: that of the logits.
  """
  logprobs = logits - statistics.logsumexp
  of_logprobs = cotangents.logsumexp
  if statistics.entropy is not None:
    of_logprobs -= cotangents.entropy * (logprobs + statistics.entropy)
  gradient = (
    jnp.exp(logprobs) * of_logprobs
    + jnp.where(is_target, cotangents.target_logit, 0.0)
    + cotangents.logit_sum
  )
  if soft_cap is None:
    return gradient
  return gradient * (1 - (logits / soft_cap) ** 2)
