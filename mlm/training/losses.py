"""Cross-entropy over loss-weighted tokens, log-probabilities, metrics of rows.

Letters: B rows, T tokens a row, D model width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.sharding import rules


def _statistics(outputs: dict, batch: dict, backend: str):
  """Float32 [B, T] statistics of the logits; the logits are never whole."""
  operands = (
    outputs["hidden"],
    outputs["unembedding"],
    batch["decoder_target_tokens"],
  )
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return linear_cross_entropy.token_statistics(*operands, backend=backend)
  return linear_cross_entropy.sharded_token_statistics(
    *operands,
    backend=backend,
    mesh=mesh,
    token_axes=rules.BATCH_AXES,
    length_axis=rules.SEQUENCE_AXIS,
    vocab_axis=rules.RULES["vocab"],
  )


def cross_entropy_loss(
  apply: Callable, *, z_loss: float, backend: str, num_languages: int
) -> Callable:
  """Builds the mean of -log p(target) + z_loss * logsumexp^2 over tokens.

  The mean is over loss-weighted tokens: sum(w * loss) / sum(w), in float32.

  Args:
    apply: (params, batch) -> {"hidden": [B, T, D], "unembedding": [D, V]}. If
      there is an "auxiliary_loss", of routers, it is added to the mean, and
      the metrics in "auxiliary" to those returned.
    z_loss: weight of the squared log-normalizer, which keeps logits small;
      1e-4 in the T5 and PaLM families, 0 for none.
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The metrics loss
    and loss_by_language are without the added losses, in nats per token.

  Source: z-loss as in Chowdhery et al. 2022 (PaLM), section 5.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    outputs = apply(params, batch)
    statistics = _statistics(outputs, batch, backend)
    losses = weights * (statistics.logsumexp - statistics.target_logit)
    z_losses = weights * z_loss * statistics.logsumexp**2
    num_tokens = weights.sum()
    loss = (losses.sum() + z_losses.sum()) / num_tokens
    loss += outputs.get("auxiliary_loss", 0.0)

    def by_language(values):
      return jax.ops.segment_sum(
        values.reshape(-1),
        batch["decoder_language_ids"].reshape(-1),
        num_segments=num_languages,
      )

    tokens_by_language = by_language(weights)
    metrics = {
      "loss": (losses.sum(), num_tokens),
      "z_loss": (z_losses.sum(), num_tokens),
      "tokens": (num_tokens, None),
      "loss_by_language": (by_language(losses), tokens_by_language),
      "tokens_by_language": (tokens_by_language, None),
      **outputs.get("auxiliary", {}),
    }
    return loss, metrics

  return loss_fn


def with_frozen(
  make_loss: Callable[[Callable], Callable], apply: Callable
) -> Callable:
  """Builds the loss of a part of a model; the rest is `frozen`.

  Args:
    make_loss: apply -> loss_fn, such as a partial `cross_entropy_loss`, whose
      loss_fn itself reads nothing frozen.
    apply: (params, frozen, batch) -> outputs; for adapters a lambda of
      model.apply({"base": frozen, "adapters": params}, batch).

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics).
  """

  def loss_fn(params, frozen, batch, key):
    of_part = make_loss(lambda params, batch: apply(params, frozen, batch))
    return of_part(params, None, batch, key)

  return loss_fn


def token_logprobs(
  apply: Callable, params: Any, batch: dict, *, backend: str
) -> jax.Array:
  """Log-probability of each target token, float32 [B, T], in nats."""
  statistics = _statistics(apply(params, batch), batch, backend)
  return statistics.target_logit - statistics.logsumexp


def sequence_logprobs(
  apply: Callable, params: Any, batch: dict, *, backend: str
) -> jax.Array:
  """Log-probability of each row's loss-weighted tokens, float32 [B]."""
  logprobs = token_logprobs(apply, params, batch, backend=backend)
  return jnp.sum(logprobs * batch["decoder_loss_weights"], axis=1)


def row_metrics(
  values: Mapping[str, tuple[jax.Array, jax.Array | float]],
  language_ids: jax.Array,
  *,
  num_languages: int,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Metrics of rows that each are in one language, overall and by language.

  Args:
    values: {name: (numerators, denominators)}, float [B], or a scalar for the
      denominator of every row.
    language_ids: int32 [B].
    num_languages: length of the per-language metric vectors.

  Returns:
    {name, name + "_by_language": (sum of numerators, sum of denominators)}.
  """
  metrics = {}
  for name, pair in values.items():
    pair = [jnp.broadcast_to(jnp.float32(x), language_ids.shape) for x in pair]
    metrics[name] = tuple(x.sum() for x in pair)
    metrics[f"{name}_by_language"] = tuple(
      jax.ops.segment_sum(x, language_ids, num_segments=num_languages)
      for x in pair
    )
  return metrics
