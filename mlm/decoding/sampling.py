"""From logits to a token: temperature, bans, top-k, top-p, and the draw.

All in float32, on logits [..., V] of V tokens. A token that cannot be drawn has
-inf. A cut-off is a value, so tokens equal to the last one that stays, stay too.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn, in the order of its application.

  Attributes:
    forbidden_ids: tokens that are never drawn.
    min_tokens: of a response before its EOS.
    temperature: divides the logits; 0 is greedy: the largest logit, of equals
      that of the lowest id.
    top_k: how many of the largest logits stay; None for all.
    top_p: the most probable tokens stay until their sum is at least this; in
      (0, 1], 1 for all.

  Source: Fan et al. 2018 for top-k; Holtzman et al. 2020 for top-p.
  """

  forbidden_ids: tuple[int, ...]
  min_tokens: int
  temperature: float
  top_k: int | None
  top_p: float

  def __post_init__(self):
    if any(i < 0 for i in self.forbidden_ids):
      raise ValueError(f"forbidden_ids {self.forbidden_ids}: ids start at 0")
    if self.min_tokens < 0:
      raise ValueError(f"min_tokens {self.min_tokens} must be 0 or more")
    if not 0 <= self.temperature < float("inf"):
      raise ValueError(
        f"temperature {self.temperature} must be 0 (greedy) or more"
      )
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(
        f"top_k {self.top_k} must be at least 1; None keeps all tokens"
      )
    if not 0 < self.top_p <= 1:
      raise ValueError(
        f"top_p {self.top_p} must be in (0, 1]; 1 keeps all tokens"
      )


def forbid(logits: jax.Array, ids: tuple[int, ...]) -> jax.Array:
  """Logits without the tokens of these ids."""
  vocab_size = logits.shape[-1]
  if any(i >= vocab_size for i in ids):
    raise ValueError(
      f"ids {ids} to forbid: the vocabulary ends at {vocab_size - 1}"
    )
  return logits.at[..., jnp.array(ids, jnp.int32)].set(-jnp.inf)


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
  """The k largest logits, and those equal to the k-th."""
  if k > logits.shape[-1]:
    raise ValueError(
      f"top_k {k} exceeds the vocabulary of {logits.shape[-1]}; use None to "
      "keep all tokens"
    )
  smallest = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= smallest, logits, -jnp.inf)


def keep_top_p(logits: jax.Array, p: float) -> jax.Array:
  """The tokens before which more probable ones sum to less than p.

  The most probable token stays whatever p is, as do those equal to the last.
  """
  ordered = jnp.sort(logits, axis=-1, descending=True)
  probabilities = jax.nn.softmax(ordered, axis=-1)
  before = jnp.cumsum(probabilities, axis=-1) - probabilities
  smallest = jnp.min(
    jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True
  )
  return jnp.where(logits >= smallest, logits, -jnp.inf)


def log_distribution(
  logits: jax.Array, t: int | jax.Array, *, sampling: Sampling, eos_id: int
) -> jax.Array:
  """Float32 log-probabilities [..., V] that the next token is drawn from.

  Args:
    logits: of the model, float [..., V].
    t: tokens of the response so far, of all or of each, [...].
    sampling: what is done to them.
    eos_id: the token that `min_tokens` bans.

  Raises:
    ValueError: if a forbidden id or top_k exceeds the vocabulary.
  """
  logits = logits.astype(jnp.float32)
  if sampling.forbidden_ids:
    logits = forbid(logits, sampling.forbidden_ids)
  if sampling.min_tokens:
    is_early = jnp.asarray(t < sampling.min_tokens)[..., None]
    logits = jnp.where(is_early, forbid(logits, (eos_id,)), logits)
  if sampling.temperature == 0:
    is_largest = jax.nn.one_hot(
      jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool
    )
    return jnp.where(is_largest, 0.0, -jnp.inf)
  logits = logits / sampling.temperature
  if sampling.top_k is not None:
    logits = keep_top_k(logits, sampling.top_k)
  if sampling.top_p < 1:
    logits = keep_top_p(logits, sampling.top_p)
  return jax.nn.log_softmax(logits, axis=-1)


def draw(keys: jax.Array, logprobs: jax.Array, t: int | jax.Array) -> jax.Array:
  """One token a row, int32 [N], by each row's key folded with t.

  First a block of about sqrt(V) tokens, by its probability, then a token of the
  block: 2 sqrt(V) random numbers instead of V, which cost more than a small
  model's step.

  Args:
    keys: random keys [N].
    logprobs: [N, V] of `log_distribution`.
    t: index of the token in its response, of all rows or [N].
  """
  N, V = logprobs.shape
  width = math.isqrt(V - 1) + 1
  filled = jnp.pad(
    logprobs, ((0, 0), (0, -V % width)), constant_values=-jnp.inf
  )
  blocks = filled.reshape(N, -1, width)

  def of_row(key, blocks, masses, t):
    block_key, token_key = jax.random.split(jax.random.fold_in(key, t))
    block = jax.random.categorical(block_key, masses)
    return block * width + jax.random.categorical(token_key, blocks[block])

  masses = jax.nn.logsumexp(blocks, axis=-1)
  of_rows = jax.vmap(of_row)(keys, blocks, masses, jnp.broadcast_to(t, N))
  return of_rows.astype(jnp.int32)
