"""The Bradley–Terry reward model: a decoder with a scalar read at the last token.

Params are {"decoder": decoder params, "score": [D]}. The level and scale of raw
scores are arbitrary; divide by their spread on samples of the reference policy
before adding them to other rewards.

Letters: N rows, T tokens a row (prompt left-padded, then response and EOS).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def init(decoder_params: dict, d_model: int) -> dict:
  """Reward-model params on top of a fine-tuned decoder's; scores start at 0."""
  return {
    "decoder": decoder_params,
    "score": jnp.zeros((d_model,), jnp.float32),
  }


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
  """Builds the pairwise loss -log sigmoid(r_chosen - r_rejected), averaged.

  Chosen and rejected go through one forward pass of 2B rows.

  Args:
    apply: decoder apply.
    centering: weight of mean((r_chosen + r_rejected)^2), which fixes the level
      that the pairwise loss leaves free per prompt (Eisenstein et al. 2023).
    num_languages: length of the per-language metric vectors.
    pad_id: padding token.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics); batch holds
    chosen_rows and rejected_rows int32 [B, T] and language_ids int32 [B].

  Source: Bradley & Terry 1952; as used by Ouyang et al. 2022, equation 1.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    rows = jnp.concatenate([batch["chosen_rows"], batch["rejected_rows"]])
    chosen, rejected = jnp.split(scores(apply, params, rows, pad_id=pad_id), 2)
    pair_losses = -jax.nn.log_sigmoid(chosen - rejected)
    level = jnp.mean((chosen + rejected) ** 2)
    loss = jnp.mean(pair_losses) + centering * level
    num_pairs = jnp.float32(pair_losses.shape[0])
    right = (chosen > rejected).astype(jnp.float32)

    def by_language(values):
      return jax.ops.segment_sum(
        values, batch["language_ids"], num_segments=num_languages
      )

    pairs_by_language = by_language(jnp.ones_like(right))
    metrics = {
      "loss": (pair_losses.sum(), num_pairs),
      "accuracy": (right.sum(), num_pairs),
      "margin": ((chosen - rejected).sum(), num_pairs),
      "accuracy_by_language": (by_language(right), pairs_by_language),
      "loss_by_language": (by_language(pair_losses), pairs_by_language),
    }
    return loss, metrics

  return loss_fn
