"""What each token counts in the mean that is a loss.

Functions of a batch to float32 [B, T] weights, 0 where decoder_loss_weights
are. The loss is sum(weights * loss) / sum(weights) over all rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def per_token(batch: dict) -> jax.Array:
  """Every token that has a loss counts the same: its decoder_loss_weights."""
  return batch["decoder_loss_weights"].astype(jnp.float32)


def per_sequence(batch: dict) -> jax.Array:
  """Every packed sequence counts the same, however long its target.

  A token has 1 / (the weights of its own segment's targets), so that the loss
  is the mean over sequences of the means over their tokens.

  Source: Üstün et al. 2024 (Aya), section 3.1.
  """
  weights = per_token(batch)

  def of_row(weights, segments):
    totals = jax.ops.segment_sum(
      weights, segments, num_segments=weights.shape[0] + 1
    )[segments]
    return jnp.where(weights > 0, weights / jnp.where(totals > 0, totals, 1), 0)

  return jax.vmap(of_row)(weights, batch["decoder_segment_ids"])


def times_language(
  token_weights: Callable[[dict], jax.Array], language_weights: jax.Array
) -> Callable[[dict], jax.Array]:
  """Multiplies weights by one of each token's language.

  Args:
    token_weights: batch -> weights, such as `per_token`.
    language_weights: [number of languages], >= 0, at positions that
      decoder_language_ids count.
  """

  def weights(batch):
    of_languages = jnp.float32(language_weights)[batch["decoder_language_ids"]]
    return token_weights(batch) * of_languages

  return weights
