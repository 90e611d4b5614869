"""Beam search for either family: the most probable responses of a prompt.

Letters: B prompts, W beams, P prompt columns, R response columns, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlm.decoding import prefill
from mlm.models import caches
from mlm.sharding import mesh as mesh_lib


class Beams(NamedTuple):
  """The W best responses found, best first.

  Attributes:
    tokens: int32 [B, W, R], EOS included, then pad_id.
    scores: float32 [B, W], sum of log-probabilities / length penalty; -inf
      where there are fewer than W responses.
    lengths: int32 [B, W], tokens, EOS included.
    ended: bool [B, W], whether EOS came within R tokens.
  """

  tokens: jax.Array
  scores: jax.Array
  lengths: jax.Array
  ended: jax.Array


class _Live(NamedTuple):
  """Beams that go on: tokens [B, W, R], sums of log-probabilities [B, W]."""

  tokens: jax.Array
  logprobs: jax.Array


def length_penalty(length: jax.Array | int, alpha: float) -> jax.Array | float:
  """((5 + length) / 6)^alpha, by which a sum of log-probabilities is divided.

  Source: Wu et al. 2016, equation 14, as T5 and t5x use it.
  """
  return ((5 + length) / 6) ** alpha


def _best(count: int, scores: jax.Array, tree: Any) -> Any:
  """The leaves [B, n, ...] of a tree at the `count` largest scores [B, n]."""
  _, order = jax.lax.top_k(scores, count)
  return jax.tree.map(lambda x: jax.vmap(lambda row, i: row[i])(x, order), tree)


def make_beam_search(
  model,
  *,
  response_length: int,
  num_beams: int,
  length_alpha: float,
  eos_id: int,
  pad_id: int,
) -> Callable[[Any, Any], Beams]:
  """Builds the function that searches.

  Each step keeps the W best sums of log-probabilities among unended beams. An
  EOS among the W best ends its response; so does the R-th token, whatever it
  is. A prompt is done when no live beam can score above its W-th response:
  log-probabilities are at most 0, so none can rise above its sum now divided by
  the penalty of R tokens.

  Args:
    model: of `mlm.models.decoder` or `mlm.models.encdec`.
    response_length: R, the largest response in tokens, EOS included.
    num_beams: W. 1 with length_alpha 0 is greedy.
    length_alpha: of `length_penalty`, 0 or more; 0 scores by the sum alone.
    eos_id: token that ends a response.
    pad_id: token that fills prompts, and responses on the right.

  Returns:
    search(params, prompts) -> Beams, where prompts is int32 [B, P], a decoder's
    left-padded. It raises ValueError for an empty prompt, or one a decoder
    finds padded on the right.

  Raises:
    ValueError: if a size or length_alpha is out of range.
  """
  if response_length < 1 or num_beams < 1:
    raise ValueError(
      f"response_length {response_length} and num_beams {num_beams} must be at "
      "least 1"
    )
  if not 0 <= length_alpha < float("inf"):
    raise ValueError(f"length_alpha {length_alpha} must be 0 or more")
  W, R = num_beams, response_length

  def advance(live, finished, logits, t):
    """One token more; (live, finished, beam [B, W] each live one came from)."""
    B, _, V = logits.shape
    sums = live.logprobs[..., None] + jax.nn.log_softmax(logits, axis=-1)
    # Each beam has one EOS, so W of the 2 W best go on.
    logprobs, flat = jax.lax.top_k(sums.reshape(B, W * V), min(2, V) * W)
    beams, tokens = flat // V, (flat % V).astype(jnp.int32)
    responses = jnp.take_along_axis(live.tokens, beams[..., None], axis=1)
    responses = responses.at[:, :, t].set(tokens)
    ended = tokens == eos_id
    stops = ended | (t == R - 1)
    is_among_best = jnp.arange(flat.shape[1]) < W
    scores = logprobs / length_penalty(t + 1, length_alpha)
    new = Beams(
      tokens=responses,
      scores=jnp.where(stops & is_among_best, scores, -jnp.inf),
      lengths=jnp.full_like(tokens, t + 1),
      ended=ended,
    )
    every = jax.tree.map(
      lambda old, new: jnp.concatenate([old, new], axis=1), finished, new
    )
    finished = _best(W, every.scores, every)
    logprobs = jnp.where(stops, -jnp.inf, logprobs)
    live, beams = _best(W, logprobs, (_Live(responses, logprobs), beams))
    return live, finished, beams

  @mesh_lib.jit
  def jitted(params, prompts):
    B = len(prompts)

    def is_unfinished(carry):
      live, finished, _, _, t = carry
      bound = live.logprobs.max(axis=1) / length_penalty(R, length_alpha)
      return (t < R) & jnp.any(finished.scores.min(axis=1) < bound)

    def one_more(carry):
      live, finished, beams, cache, t = carry
      rows = (jnp.arange(B)[:, None] * W + beams).reshape(-1)
      logits, cache = prefill.next_logits(
        model,
        params,
        caches.reorder(cache, rows),
        live.tokens[:, :, t - 1].reshape(-1),
        starts + t - 1,
      )
      logits = logits.reshape(B, W, -1)
      return *advance(live, finished, logits, t), cache, t + 1

    logits, cache, starts = prefill.prefill(
      model,
      params,
      prompts,
      rows_per_prompt=W,
      length=R,
      pad_id=pad_id,
    )
    padding = jnp.full((B, W, R), pad_id, jnp.int32)
    # All beams are the same so far: the first stands for them.
    first = jnp.where(jnp.arange(W) == 0, 0.0, -jnp.inf)
    live = _Live(padding, jnp.tile(first, (B, 1)))
    finished = Beams(
      tokens=padding,
      scores=jnp.full((B, W), -jnp.inf),
      lengths=jnp.zeros((B, W), jnp.int32),
      ended=jnp.zeros((B, W), bool),
    )
    logits = jnp.repeat(logits[:, None], W, axis=1)
    live, finished, beams = advance(live, finished, logits, 0)
    carry = (live, finished, beams, cache, jnp.int32(1))
    return jax.lax.while_loop(is_unfinished, one_more, carry)[1]

  def search(params, prompts):
    prefill.check_prompts(model, prompts, pad_id)
    return jitted(params, prompts)

  return search
