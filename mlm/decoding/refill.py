"""Responses drawn in slots that go to the next prompts as soon as rows end.

`generate` draws all responses at once, and goes on for as long as the longest.
Here only some prompts are in work: when all responses of one have ended, the
next prompt of the batch takes its place, read while the others wait. A row's
draws depend on its key and on the number of the token in its response, so the
tokens are those of `generate`, in fewer steps of more or less full batches.

The cache is in pages (`mlm.models.pages`), which rows of any age can share.

Letters: B prompts, K responses a prompt, P prompt columns, R response columns,
G groups: the prompts in work, F of them given out at a time, N = G K slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlm.decoding import generate as generate_lib
from mlm.decoding import prefill
from mlm.decoding import sampling as sampling_lib
from mlm.models import decoder, pages
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules


class _State(NamedTuple):
  """Of the loop.

  Attributes:
    responses: in rows [B K, ...].
    cache: of `mlm.models.pages`, of N rows.
    rows: int32 [N], the response that a slot draws; B K where it draws none.
    next_prompt: int32 scalar, the first that is not in work.
  """

  responses: generate_lib.Generated
  cache: dict
  rows: jax.Array
  next_prompt: jax.Array


def _check_model(model):
  if not isinstance(model, decoder.Model) or model.init_pages is None:
    raise ValueError(
      "prompts that take the place of others need a cache in pages, which "
      "encoder–decoders and decoders with ALiBi do not have; set "
      "prompts_at_once to None"
    )


def make_generator(
  model: decoder.Model,
  *,
  response_length: int,
  samples_per_prompt: int,
  sampling: sampling_lib.Sampling,
  eos_id: int,
  pad_id: int,
  prompts_at_once: int,
  prompts_per_refill: int,
  page_size: int,
) -> Callable[[Any, Any, jax.Array], generate_lib.Generated]:
  """Builds the function that draws responses.

  Args:
    model: of `mlm.models.decoder`, with rotary positions.
    response_length: R, the largest response in tokens, EOS included.
    samples_per_prompt: K.
    sampling: how a token is drawn.
    eos_id: token that ends a response.
    pad_id: token that fills prompts, and responses on the right.
    prompts_at_once: G; no more than there are prompts are used.
    prompts_per_refill: F, at most G: drawing goes on until so many prompts have
      ended, and reads as many, or what is left. Rounded up to a multiple of
      the devices that split them.
    page_size: slots of a page. Rows share the full pages of their prompt.

  Returns:
    generate(params, prompts, keys) -> Generated, as that of
    `generate.make_generator`, which draws the same tokens.

  Raises:
    ValueError: if a size is below 1, F exceeds G, or the model has no pages.
  """
  _check_model(model)
  sizes = {
    "response_length": response_length,
    "samples_per_prompt": samples_per_prompt,
    "prompts_at_once": prompts_at_once,
    "prompts_per_refill": prompts_per_refill,
    "page_size": page_size,
  }
  if min(sizes.values()) < 1 or prompts_per_refill > prompts_at_once:
    told = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise ValueError(
      f"{told}: each must be at least 1, and prompts_per_refill no more than "
      "prompts_at_once"
    )
  K = samples_per_prompt

  @mesh_lib.jit
  def jitted(params, prompts, keys):
    num_prompts, num_rows = len(prompts), len(keys)
    num_groups = min(prompts_at_once, num_prompts)
    shards = rules.num_shards("batch")
    num_read = min(-(-prompts_per_refill // shards) * shards, num_groups)

    def append(responses, rows, logits):
      """Another token of the responses in rows [X], and the rows that go on."""
      t = responses.lengths[rows]
      tokens, by_model, by_sampling = generate_lib.next_tokens(
        keys[rows], logits, t, sampling=sampling, eos_id=eos_id
      )

      def put(column, values):
        return column.at[rows, t].set(values, mode="drop")

      has_ended = tokens == eos_id
      now = generate_lib.Generated(
        tokens=put(responses.tokens, tokens),
        model_logprobs=put(responses.model_logprobs, by_model),
        sampling_logprobs=put(responses.sampling_logprobs, by_sampling),
        lengths=responses.lengths.at[rows].add(1, mode="drop"),
        ended=responses.ended.at[rows].set(has_ended, mode="drop"),
      )
      is_last = has_ended | (t + 1 == response_length)
      return now, jnp.where(is_last, num_rows, rows)

    def is_free(state):
      """Bool [G], the groups none of whose slots draws."""
      return jnp.all(state.rows.reshape(num_groups, K) == num_rows, axis=1)

    def refilled(state):
      """The next prompts in the place of those that have ended."""
      free = is_free(state)
      groups = jnp.argsort(~free, stable=True)[:num_read]
      chosen = state.next_prompt + jnp.arange(num_read)
      is_used = free[groups] & (chosen < num_prompts)
      groups = jnp.where(is_used, groups, num_groups)
      logits, filled, _ = prefill.read(
        model,
        params,
        prompts[jnp.minimum(chosen, num_prompts - 1)],
        pad_id=pad_id,
      )
      rows = chosen[:, None] * K + jnp.arange(K)
      rows = jnp.where(is_used[:, None], rows, num_rows).reshape(-1)
      responses, rows = append(
        state.responses, rows, jnp.repeat(logits, K, axis=0)
      )
      of_groups = state.rows.reshape(num_groups, K)
      of_groups = of_groups.at[groups].set(rows.reshape(-1, K), mode="drop")
      return _State(
        responses,
        pages.fill(state.cache, filled, groups),
        of_groups.reshape(-1),
        state.next_prompt + is_used.sum(dtype=jnp.int32),
      )

    def goes_on(state):
      """Whether too few groups are free for the prompts that are left."""
      num_left = num_prompts - state.next_prompt
      num_free = is_free(state).sum()
      wanted = jnp.where(
        num_left > 0, jnp.minimum(num_read, num_left), num_groups
      )
      return num_free < wanted

    def one_more(state):
      responses, rows = state.responses, state.rows
      last = responses.tokens[rows, responses.lengths[rows] - 1]
      logits, cache = prefill.next_logits(
        model,
        params,
        state.cache,
        last,
        state.cache["lengths"],
        rows < num_rows,
      )
      responses, rows = append(responses, rows, logits)
      return _State(responses, cache, rows, state.next_prompt)

    state = jax.lax.while_loop(
      lambda state: state.next_prompt < num_prompts,
      lambda state: jax.lax.while_loop(goes_on, one_more, refilled(state)),
      _State(
        generate_lib.empty(num_rows, response_length, pad_id=pad_id),
        model.init_pages(
          num_groups=num_groups,
          rows_per_group=K,
          prompt_length=prompts.shape[1],
          response_length=response_length,
          page_size=page_size,
        ),
        jnp.full(num_groups * K, num_rows, jnp.int32),
        jnp.int32(0),
      ),
    )
    return generate_lib.by_prompt(state.responses, K)

  def generate(params, prompts, keys):
    prefill.check_prompts(model, prompts, pad_id)
    return jitted(params, prompts, keys)

  return generate
