"""Responses drawn token by token, k for each prompt, from either family.

A prompt is read once and its cache shared by its k responses, which are drawn
together until all have ended. A response depends on its prompt and its key
alone, not on the other rows of the batch, on the padding or on the mesh.

Letters: B prompts, K responses a prompt, P prompt columns, R response columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlm.decoding import prefill
from mlm.decoding import sampling as sampling_lib
from mlm.sharding import mesh as mesh_lib


class Generated(NamedTuple):
  """Responses, and what their tokens' probabilities were.

  Attributes:
    tokens: int32 [B, K, R], EOS included, then pad_id.
    model_logprobs: float32 [B, K, R], by the model: temperature 1, no token
      banned or cut off; 0 on padding.
    sampling_logprobs: float32 [B, K, R], by the distribution that was drawn
      from, after bans, temperature and cut-offs; 0 on padding.
    lengths: int32 [B, K], tokens, EOS included.
    ended: bool [B, K], whether EOS came within R tokens.
  """

  tokens: jax.Array
  model_logprobs: jax.Array
  sampling_logprobs: jax.Array
  lengths: jax.Array
  ended: jax.Array


def next_tokens(
  keys: jax.Array,
  logits: jax.Array,
  t: int | jax.Array,
  *,
  sampling: sampling_lib.Sampling,
  eos_id: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws a token a row.

  Args:
    keys: random keys [N], of the rows.
    logits: float32 [N, V], by the model.
    t: index of the token in its response, of all rows or [N].
    sampling: how it is drawn.
    eos_id: token that ends a response.

  Returns:
    (tokens int32 [N], their log-probabilities by the model float32 [N], and by
    the distribution they were drawn from).
  """
  logprobs = sampling_lib.log_distribution(
    logits, t, sampling=sampling, eos_id=eos_id
  )
  if sampling.temperature == 0:
    tokens = jnp.argmax(logprobs, axis=-1).astype(jnp.int32)
  else:
    tokens = sampling_lib.draw(keys, logprobs, t)

  def of_tokens(values):
    return jnp.take_along_axis(values, tokens[:, None], axis=-1)[:, 0]

  by_model = of_tokens(logits) - jax.nn.logsumexp(logits, axis=-1)
  return tokens, by_model, of_tokens(logprobs)


def empty(num_rows: int, response_length: int, *, pad_id: int) -> Generated:
  """No tokens yet, in rows [num_rows, ...] instead of [B, K, ...]."""
  shape = (num_rows, response_length)
  return Generated(
    tokens=jnp.full(shape, pad_id, jnp.int32),
    model_logprobs=jnp.zeros(shape),
    sampling_logprobs=jnp.zeros(shape),
    lengths=jnp.zeros(num_rows, jnp.int32),
    ended=jnp.zeros(num_rows, bool),
  )


def by_prompt(rows: Generated, samples_per_prompt: int) -> Generated:
  """What `empty` has in rows, as [B, K, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(-1, samples_per_prompt, *x.shape[1:]), rows
  )


def make_generator(
  model,
  *,
  response_length: int,
  samples_per_prompt: int,
  sampling: sampling_lib.Sampling,
  eos_id: int,
  pad_id: int,
) -> Callable[[Any, Any, jax.Array], Generated]:
  """Builds the function that draws responses.

  Args:
    model: of `mlm.models.decoder` or `mlm.models.encdec`.
    response_length: R, the largest response in tokens, EOS included.
    samples_per_prompt: K.
    sampling: how a token is drawn.
    eos_id: token that ends a response.
    pad_id: token that fills prompts, and responses on the right.

  Returns:
    generate(params, prompts, keys) -> Generated, where prompts is int32 [B, P],
    a decoder's left-padded, and keys are random keys [B * K], prompt-major. It
    raises ValueError for an empty prompt, or one a decoder finds padded on the
    right.

  Raises:
    ValueError: if a size is below 1.
  """
  if response_length < 1 or samples_per_prompt < 1:
    raise ValueError(
      f"response_length {response_length} and samples_per_prompt "
      f"{samples_per_prompt} must be at least 1"
    )

  @mesh_lib.jit
  def jitted(params, prompts, keys):
    def append(state, logits, t):
      """The state with token t of every row that has not ended."""
      tokens, by_model, by_sampling = next_tokens(
        keys, logits, t, sampling=sampling, eos_id=eos_id
      )

      def put(column, values, padding):
        values = jnp.where(state.ended, padding, values)
        return column.at[:, t].set(values)

      return Generated(
        tokens=put(state.tokens, tokens, pad_id),
        model_logprobs=put(state.model_logprobs, by_model, 0.0),
        sampling_logprobs=put(state.sampling_logprobs, by_sampling, 0.0),
        lengths=state.lengths + ~state.ended,
        ended=state.ended | (tokens == eos_id),
      )

    def is_unfinished(carry):
      state, _, t = carry
      return (t < response_length) & ~jnp.all(state.ended)

    def one_more(carry):
      state, cache, t = carry
      logits, cache = prefill.next_logits(
        model, params, cache, state.tokens[:, t - 1], starts + t - 1
      )
      return append(state, logits, t), cache, t + 1

    logits, cache, starts = prefill.prefill(
      model,
      params,
      prompts,
      rows_per_prompt=samples_per_prompt,
      length=response_length,
      pad_id=pad_id,
    )
    state = empty(len(keys), response_length, pad_id=pad_id)
    state = append(state, jnp.repeat(logits, samples_per_prompt, axis=0), 0)
    state, _, _ = jax.lax.while_loop(
      is_unfinished, one_more, (state, cache, jnp.int32(1))
    )
    return by_prompt(state, samples_per_prompt)

  def generate(params, prompts, keys):
    prefill.check_prompts(model, prompts, pad_id)
    return jitted(params, prompts, keys)

  return generate
