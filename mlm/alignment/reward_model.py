"""Reward models: a decoder with a scalar read at the last token.

Trained on which of two responses is better (Bradley–Terry), or pointwise on
whether a response is good.

Params are {"decoder": decoder params, "score": [D]}. The level and scale of raw
scores are arbitrary; divide by their spread on samples of the reference policy
before adding them to other rewards (`mlm.alignment.calibration`).

Letters: N rows, T tokens a row (prompt left-padded, then response and EOS).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mlm.training import losses


def init(decoder_params: dict, d_model: int) -> dict:
  """Reward-model params on top of a fine-tuned decoder's; scores start at 0."""
  return {
    "decoder": decoder_params,
    "score": jnp.zeros((d_model,), jnp.float32),
  }


def logical_axes(decoder_axes: dict) -> dict:
  """Of reward-model params, from those of the decoder."""
  return {"decoder": decoder_axes, "score": ("embed",)}


def model_inputs(rows: jax.Array, pad_id: int) -> dict[str, jax.Array]:
  """What the decoder reads of whole token rows, int32 [N, T] each.

  Unlike a language-model batch nothing is shifted: the last real token, EOS
  where the response ended, is an input, and its hidden state is scored.
  """
  real = rows != pad_id
  return {
    "decoder_input_tokens": rows,
    "decoder_positions": jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0),
    "decoder_segment_ids": real.astype(jnp.int32),
  }


def scores(apply: Callable, params: dict, rows: jax.Array, *, pad_id: int):
  """Raw scores, float32 [N], read at the last real token of each row."""
  hidden = apply(params["decoder"], model_inputs(rows, pad_id))["hidden"]
  length = rows.shape[1]
  real = rows != pad_id
  last = length - 1 - jnp.argmax(real[:, ::-1], axis=1)
  at_last = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  return at_last.astype(jnp.float32) @ params["score"]


def bradley_terry_loss(
  apply: Callable, *, centering: float, num_languages: int, pad_id: int
) -> Callable:
  """Builds the pairwise loss -log sigmoid(r_chosen - r_rejected - m), averaged.

  Chosen and rejected go through one forward pass of 2B rows.

  Args:
    apply: decoder apply.
    centering: weight of mean((r_chosen + r_rejected)^2), which fixes the level
      that the pairwise loss leaves free per prompt (Eisenstein et al. 2023).
    num_languages: length of the per-language metric vectors.
    pad_id: padding token.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics); batch holds
    chosen_rows and rejected_rows int32 [B, T], language_ids int32 [B], and m as
    margins float32 [B], 0 where no pair is better by more than another.

  Source: Bradley & Terry 1952; as used by Ouyang et al. 2022, equation 1;
  margin as in Touvron et al. 2023 (Llama 2), equation 2.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    chosen, rejected = _pair_scores(apply, params, batch, pad_id)
    pair_losses = -jax.nn.log_sigmoid(chosen - rejected - batch["margins"])
    level = jnp.mean((chosen + rejected) ** 2)
    metrics = _metrics(chosen, rejected, pair_losses, batch, num_languages)
    return jnp.mean(pair_losses) + centering * level, metrics

  return loss_fn


def pointwise_loss(
  apply: Callable, *, num_languages: int, pad_id: int
) -> Callable:
  """Builds the cross-entropy of sigmoid(r) against good and bad, averaged.

  The chosen responses are the good ones, the rejected the bad ones. Unlike the
  pairwise loss it fixes the level of scores, and it needs no pairs of the same
  prompt; margins are not read.

  Args:
    apply: decoder apply.
    num_languages: length of the per-language metric vectors.
    pad_id: padding token.

  Returns:
    loss_fn as that of `bradley_terry_loss`; loss is per response.

  Source: Wu et al. 2024, "Reuse Your Rewards", for summaries.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    chosen, rejected = _pair_scores(apply, params, batch, pad_id)
    good = -jax.nn.log_sigmoid(chosen)
    bad = -jax.nn.log_sigmoid(-rejected)
    pair_losses = (good + bad) / 2
    metrics = _metrics(chosen, rejected, pair_losses, batch, num_languages)
    return jnp.mean(pair_losses), metrics

  return loss_fn


def pairwise(*, centering: float) -> Callable:
  """`bradley_terry_loss` with its centering given."""
  return functools.partial(bradley_terry_loss, centering=centering)


def pointwise() -> Callable:
  """`pointwise_loss`, which needs no settings."""
  return pointwise_loss


def _pair_scores(apply, params, batch, pad_id):
  rows = jnp.concatenate([batch["chosen_rows"], batch["rejected_rows"]])
  return jnp.split(scores(apply, params, rows, pad_id=pad_id), 2)


def _metrics(chosen, rejected, pair_losses, batch, num_languages):
  return losses.row_metrics(
    {
      "loss": (pair_losses, 1),
      "accuracy": (chosen > rejected, 1),
      "margin": (chosen - rejected, 1),
    },
    batch["language_ids"],
    num_languages=num_languages,
  )
