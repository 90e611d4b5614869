"""Cross-entropy over loss-weighted tokens, log-probabilities, metrics of rows.

A batch's targets and loss weights may be of the last columns of its tokens
only, as those of `mlm.data.prompts.response_batch` are: no logit of the others
is then computed.

Letters: B rows, T tokens a row, C target columns, the last C of T (most often
all), D model width, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.sharding import rules

_TINY = float(jnp.finfo(jnp.float32).tiny)


def _statistics(
  outputs: dict, batch: dict, backend: str, with_entropy: bool = False
):
  """Float32 [B, C] statistics of the logits; the logits are never whole."""
  targets = batch["decoder_target_tokens"]
  hidden = last_columns(outputs["hidden"], targets)
  operands = (hidden, outputs["unembedding"], targets)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return linear_cross_entropy.token_statistics(
      *operands, backend=backend, with_entropy=with_entropy
    )
  return linear_cross_entropy.sharded_token_statistics(
    *operands,
    backend=backend,
    mesh=mesh,
    token_axes=rules.BATCH_AXES,
    length_axis=rules.SEQUENCE_AXIS,
    vocab_axis=rules.RULES["vocab"],
    with_entropy=with_entropy,
  )


def last_columns(values: jax.Array, targets: jax.Array) -> jax.Array:
  """The columns of [B, T, ...] that [B, C] targets are of: the last C."""
  return values[:, values.shape[1] - targets.shape[1] :]


def check_label_smoothing(label_smoothing: float) -> None:
  """Raises ValueError unless it is a probability below 1."""
  if not 0 <= label_smoothing < 1:
    raise ValueError(f"label_smoothing {label_smoothing} must be in [0, 1)")


def _smoothed(statistics, label_smoothing: float, vocab_size: int):
  """Cross-entropy with smoothed targets minus their entropy, as _statistics.

  The target has 1 - e, each of the other V - 1 pieces e / (V - 1).
  """
  rest = label_smoothing / (vocab_size - 1)
  target = statistics.target_logit
  others = statistics.logit_sum - target
  expected = (1 - label_smoothing) * target + rest * others
  entropy = -(1 - label_smoothing) * math.log1p(-label_smoothing)
  entropy -= label_smoothing * math.log(rest)
  return statistics.logsumexp - expected - entropy


def cross_entropy_loss(
  apply: Callable,
  *,
  z_loss: float,
  label_smoothing: float,
  token_weights: Callable[[dict], jax.Array],
  backend: str,
  num_languages: int,
) -> Callable:
  """Builds the mean of -log p(target) + z_loss * logsumexp^2 over tokens.

  The mean is over weighted tokens: sum(w * loss) / sum(w), in float32.

  Args:
    apply: (params, batch) -> {"hidden": [B, T, D], "unembedding": [D, V]}. If
      there is an "auxiliary_loss", of routers, it is added to the mean, and
      the metrics in "auxiliary" to those returned.
    z_loss: weight of the squared log-normalizer, which keeps logits small;
      1e-4 in the T5 and PaLM families, 0 for none.
    label_smoothing: probability that the targets leave to all other pieces, in
      [0, 1); their entropy is subtracted, so that a perfect prediction costs 0.
    token_weights: of `mlm.training.loss_weights`: batch -> [B, C].
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The metrics loss
    and loss_by_language are -log p(target) without what was added, in nats per
    token, every token with a loss the same whatever its weight in the mean;
    loss_weight is sum(w).

  Raises:
    ValueError: if label_smoothing is out of range.

  Source: z-loss as in Chowdhery et al. 2022 (PaLM), section 5; label smoothing
    as in t5x's losses.py.
  """
  check_label_smoothing(label_smoothing)

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    counted = batch["decoder_loss_weights"].astype(jnp.float32)
    weights = token_weights(batch)
    outputs = apply(params, batch)
    statistics = _statistics(outputs, batch, backend)
    losses = statistics.logsumexp - statistics.target_logit
    trained = losses
    if label_smoothing:
      vocab_size = outputs["unembedding"].shape[1]
      trained = _smoothed(statistics, label_smoothing, vocab_size)
    z_losses = z_loss * statistics.logsumexp**2
    weight = weights.sum()
    # Of no weight, such as a micro-batch of padding: 0, without a gradient.
    loss = (weights * (trained + z_losses)).sum() / jnp.maximum(weight, _TINY)
    loss += outputs.get("auxiliary_loss", 0.0)

    language_ids = last_columns(batch["decoder_language_ids"], counted)

    def by_language(values):
      return jax.ops.segment_sum(
        values.reshape(-1),
        language_ids.reshape(-1),
        num_segments=num_languages,
      )

    num_tokens = counted.sum()
    tokens_by_language = by_language(counted)
    metrics = {
      "loss": ((counted * losses).sum(), num_tokens),
      "z_loss": ((counted * z_losses).sum(), num_tokens),
      "loss_weight": (weight, None),
      "tokens": (num_tokens, None),
      "loss_by_language": (by_language(counted * losses), tokens_by_language),
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
  """Log-probability of each target token, float32 [B, C], in nats."""
  statistics = _statistics(apply(params, batch), batch, backend)
  return statistics.target_logit - statistics.logsumexp


def token_logprobs_and_entropy(
  apply: Callable, params: Any, batch: dict, *, backend: str
) -> tuple[jax.Array, jax.Array]:
  """`token_logprobs`, and the entropy of what they are of, in nats."""
  statistics = _statistics(
    apply(params, batch), batch, backend, with_entropy=True
  )
  logprobs = statistics.target_logit - statistics.logsumexp
  return logprobs, statistics.entropy


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
