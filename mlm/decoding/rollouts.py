"""Rollouts: k sampled responses for each prompt of a step.

The random key of a sample is a function of (seed, step, prompt id, sample
index), so what is drawn does not depend on the other rows of the batch or on
the mesh.

Letters: B prompts, K samples a prompt, P prompt columns, R response columns.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mlm.decoding import generate as generate_lib
from mlm.decoding import refill
from mlm.decoding import sampling as sampling_lib

# Tokens of a page where prompts take the place of others: what a row has in
# vain at its end, on average half of that, and a prompt's end copied for each.
_PAGE_SIZE = 32


@functools.partial(jax.jit, static_argnums=3)
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


def make_sampler(
  model,
  *,
  response_length: int,
  samples_per_prompt: int,
  temperature: float,
  eos_id: int,
  pad_id: int,
  prompts_at_once: int | None = None,
) -> Callable[..., generate_lib.Generated]:
  """Builds the function that samples responses from the whole distribution.

  All but pad_id: a sampled one would be no token to the training forward, which
  then sees another response than was sampled.

  Args:
    model: of `mlm.models.decoder` or `mlm.models.encdec`.
    response_length: R, the largest response in tokens, EOS included.
    samples_per_prompt: K.
    temperature: divides the logits; 0 means greedy.
    eos_id: token that ends a response.
    pad_id: token that fills prompts on the left and responses on the right.
    prompts_at_once: prompts in work; as a quarter of them have ended, the next
      ones take their place. None for all at once. The samples are the same.

  Returns:
    sample(params, prompts, prompt_ids, seed, step) -> `generate.Generated`,
    where prompts is int32 [B, P], left-padded, and prompt_ids uint32 [B].

  Raises:
    ValueError: if a size or the temperature is out of range, or the model can
      only take all prompts at once.
  """
  make = generate_lib.make_generator
  if prompts_at_once is not None:
    make = functools.partial(
      refill.make_generator,
      prompts_at_once=prompts_at_once,
      prompts_per_refill=max(prompts_at_once // 4, 1),
      page_size=_PAGE_SIZE,
    )
  generate = make(
    model,
    response_length=response_length,
    samples_per_prompt=samples_per_prompt,
    sampling=sampling_lib.Sampling(
      forbidden_ids=(pad_id,),
      min_tokens=0,
      temperature=temperature,
      top_k=None,
      top_p=1.0,
    ),
    eos_id=eos_id,
    pad_id=pad_id,
  )

  def sample(params, prompts, prompt_ids, seed, step):
    keys = sample_keys(seed, step, prompt_ids, samples_per_prompt)
    return generate(params, prompts, keys)

  return sample


def trimmed(
  prompts: np.ndarray, lengths: Sequence[int], *, pad_id: int
) -> np.ndarray:
  """Left-padded prompts without columns that none of them needs.

  A program is compiled for each length, so there should be few.

  Args:
    prompts: int32 [B, P].
    lengths: columns to choose from, the least that holds every prompt is taken.
    pad_id: token of the padding.

  Raises:
    ValueError: if no length holds the longest prompt.
  """
  used = np.flatnonzero((prompts != pad_id).any(axis=0))
  needed = prompts.shape[1] - int(used[0]) if len(used) else 1
  fitting = [length for length in lengths if length >= needed]
  if not fitting:
    raise ValueError(
      f"a prompt has {needed} tokens, the largest length is {max(lengths)}; add "
      "one to PROMPT_LENGTHS"
    )
  length = min(fitting)
  missing = max(length - prompts.shape[1], 0)
  padded = np.pad(prompts, ((0, 0), (missing, 0)), constant_values=pad_id)
  return padded[:, padded.shape[1] - length :]
