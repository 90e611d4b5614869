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
  logit_sum; log-probability = target_logit - logsumexp. The entropy of the
  softmax, in nats, is None unless it was asked for.
  """

  logsumexp: jax.Array
  target_logit: jax.Array
  logit_sum: jax.Array
  entropy: jax.Array | None = None


def capped(logits: jax.Array, soft_cap: float | None) -> jax.Array:
  """soft_cap * tanh(logits / soft_cap), or logits where soft_cap is None."""
  if soft_cap is None:
    return logits
  return soft_cap * jnp.tanh(logits / soft_cap)


def logits(
  hidden: jax.Array, kernel: jax.Array, soft_cap: float | None
) -> jax.Array:
  """hidden [N, D] @ kernel [D, V], added up in float32, then capped."""
  product = jnp.einsum(
    "ND,DV->NV", hidden, kernel, preferred_element_type=jnp.float32
  )
  return capped(product, soft_cap)


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  soft_cap: float | None,
  with_entropy: bool,
) -> TokenStatistics:
  """Statistics of logits = hidden @ kernel.

  A target outside [0, V) matches no column: its target_logit is 0. That is
  what a shard of the vocabulary needs of targets that lie in another shard.

  Args:
    hidden: [N, D].
    kernel: [D, V].
    targets: int32 [N].
    soft_cap: c > 0 of logits = c tanh(product / c); None for the product.
    with_entropy: whether the entropy is wanted.

  Returns:
    TokenStatistics of [N].

  Source: the soft-cap of Gemma Team 2024 (Gemma 2), section 2.
  """
  return of_logits(
    logits(hidden, kernel, soft_cap), targets, with_entropy=with_entropy
  )


def of_logits(
  logits_NV: jax.Array, targets: jax.Array, *, with_entropy: bool
) -> TokenStatistics:
  """Statistics of float32 logits [N, V], as `token_statistics`."""
  is_target = jnp.arange(logits_NV.shape[1]) == targets[:, None]
  logprobs_NV = jax.nn.log_softmax(logits_NV) if with_entropy else None
  return TokenStatistics(
    logsumexp=jax.nn.logsumexp(logits_NV, axis=-1),
    target_logit=jnp.where(is_target, logits_NV, 0).sum(axis=-1),
    logit_sum=logits_NV.sum(axis=-1),
    entropy=-(jnp.exp(logprobs_NV) * logprobs_NV).sum(axis=-1)
    if with_entropy
    else None,
  )
