"""Rollouts: k sampled responses for each prompt, from one prefill a prompt.

A prompt is prefilled once; its cache is repeated for the k samples, which then
decode together one token at a time and stop early when all have ended. The
random key of a sample is a function of (seed, step, prompt id, sample index)
and each token's key of its index, so what is drawn does not depend on the
other rows of the batch or on the mesh.

Letters: B prompts, K samples a prompt, P prompt columns, R response columns.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def sample_keys(
  seed: int | jax.Array,
  step: int | jax.Array,
  prompt_ids: jax.Array,
  samples_per_prompt: int,
) -> jax.Array:
  """Random keys [B * K] of the samples, prompt-major.

  Args:
    seed: int32 scalar.
    step: int32 scalar.
    prompt_ids: uint32 [B], one a prompt, equal wherever the prompt appears.
    samples_per_prompt: K.
  """
  base = jax.random.fold_in(jax.random.key(seed), step)

  def of_prompt(prompt_id):
    key = jax.random.fold_in(base, prompt_id)
    return jax.vmap(lambda k: jax.random.fold_in(key, k))(
      jnp.arange(samples_per_prompt)
    )

  return jax.vmap(of_prompt)(prompt_ids).reshape(-1)


def _repeat_cache(cache: dict, repeats: int) -> dict:
  return {
    "keys": jnp.repeat(cache["keys"], repeats, axis=1),
    "values": jnp.repeat(cache["values"], repeats, axis=1),
    "valid": jnp.repeat(cache["valid"], repeats, axis=0),
    "index": cache["index"],
  }


def make_sampler(
  model,
  *,
  response_length: int,
  samples_per_prompt: int,
  temperature: float,
  eos_id: int,
  pad_id: int,
) -> Callable[..., jax.Array]:
  """Builds the jitted function that samples responses.

  Args:
    model: `mlm.models` Model; its init_cache and extend are used.
    response_length: R, the largest response in tokens, EOS included.
    samples_per_prompt: K.
    temperature: divides the logits; 0 means greedy.
    eos_id: token that ends a response.
    pad_id: token that fills prompts on the left and responses on the right.

  Returns:
    sample(params, prompts, prompt_ids, seed, step) -> int32 [B, K, R], where
    prompts is int32 [B, P], left-padded, and prompt_ids uint32 [B]. A response
    holds its EOS if it ended within R tokens, then pad_id.

  Raises:
    ValueError: if a size or the temperature is out of range.
  """
  if response_length < 1 or samples_per_prompt < 1:
    raise ValueError(
      f"response_length {response_length} and samples_per_prompt "
      f"{samples_per_prompt} must be at least 1"
    )
  if temperature < 0:
    raise ValueError(f"temperature {temperature} must be 0 (greedy) or more")

  def logits_of(outputs):
    """Float32 logits [B, V] at the last column."""
    return jnp.einsum(
      "BD,DV->BV",
      outputs["hidden"][:, -1].astype(jnp.float32),
      outputs["unembedding"].astype(jnp.float32),
    )

  def draw(keys, logits, t):
    if temperature == 0:
      return jnp.argmax(logits, axis=-1)
    return jax.vmap(
      lambda key, row: jax.random.categorical(jax.random.fold_in(key, t), row)
    )(keys, logits / temperature)

  @jax.jit
  def sample(params, prompts, prompt_ids, seed, step):
    num_prompts, prompt_length = prompts.shape
    num_rows = num_prompts * samples_per_prompt
    valid = prompts != pad_id
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    cache = model.init_cache(num_prompts, prompt_length + response_length)
    outputs, cache = model.extend(params, cache, prompts, positions, valid)
    logits = jnp.repeat(logits_of(outputs), samples_per_prompt, axis=0)
    cache = _repeat_cache(cache, samples_per_prompt)
    lengths = jnp.repeat(valid.sum(axis=1), samples_per_prompt)
    keys = sample_keys(seed, step, prompt_ids, samples_per_prompt)

    def unfinished(carry):
      t, ended, _, _, _ = carry
      return (t < response_length) & ~jnp.all(ended)

    def next_token(carry):
      t, ended, responses, logits, cache = carry
      token = draw(keys, logits, t).astype(jnp.int32)
      token = jnp.where(ended, pad_id, token)
      responses = responses.at[:, t].set(token)
      outputs, cache = model.extend(
        params,
        cache,
        token[:, None],
        (lengths + t)[:, None],
        ~ended[:, None],
      )
      ended = ended | (token == eos_id)
      return t + 1, ended, responses, logits_of(outputs), cache

    start = (
      jnp.int32(0),
      jnp.zeros(num_rows, bool),
      jnp.full((num_rows, response_length), pad_id, jnp.int32),
      logits,
      cache,
    )
    _, _, responses, _, _ = jax.lax.while_loop(unfinished, next_token, start)
    return responses.reshape(num_prompts, samples_per_prompt, response_length)

  return sample
