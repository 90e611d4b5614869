"""Plain XLA over chunks of tokens; any platform, any sharding of the tokens.

The backward pass computes the logits of a chunk again from the saved
log-sum-exp and adds the kernel's gradient up in float32. Cost: 2 N D V FLOPs
forward and 6 N D V backward (reference: 4 N D V); 4 C V bytes for the logits of
one chunk of C tokens, and 4 D V for the kernel's gradient.

A chunk takes every n-th token, not a run of them: each device that holds a
slice of the tokens then has its share of every chunk.

Letters: N tokens, D width, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import gradient, reference

# 512 MiB of float32: 512 tokens at V = 262,144, where CPU time is flat from 256
# to 1024 (bench.py); at 32,000 all of 2,048 tokens at once, 1.3 times as fast.
_CHUNK_LOGITS = 2**27


def largest_chunk(vocab_size: int) -> int:
  """How many tokens' logits fit the memory that a chunk may take."""
  return max(1, _CHUNK_LOGITS // vocab_size)


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  soft_cap: float | None,
  with_entropy: bool,
  chunk_tokens: int,
) -> reference.TokenStatistics:
  """As `reference.token_statistics`, with logits of `chunk_tokens` at a time.

  Args:
    hidden: [N, D].
    kernel: [D, V].
    targets: int32 [N]; outside [0, V) it matches no column.
    soft_cap: c > 0 of c tanh(logits / c), or None.
    with_entropy: whether the entropy is wanted.
    chunk_tokens: most tokens whose logits exist at once, >= 1.

  Returns:
    TokenStatistics of [N].
  """
  num_tokens = hidden.shape[0]
  num_chunks = -(-num_tokens // chunk_tokens)
  padding = -num_tokens % num_chunks
  hidden = jnp.pad(hidden, ((0, padding), (0, 0)))
  targets = jnp.pad(targets, (0, padding))
  statistics = _token_statistics(
    num_chunks, soft_cap, with_entropy, hidden, kernel, targets
  )
  return jax.tree.map(lambda x: x[:num_tokens], statistics)


def _split(x: jax.Array, num_chunks: int) -> jax.Array:
  """[N, ...] to [num_chunks, N / num_chunks, ...], every n-th token."""
  return x.reshape(-1, num_chunks, *x.shape[1:]).swapaxes(0, 1)


def _merge(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _token_statistics(*args):
  return _forward(*args)[0]


def _forward(num_chunks, soft_cap, with_entropy, hidden, kernel, targets):
  def of_chunk(carry, chunk):
    hidden_CD, targets_C = chunk
    return carry, reference.token_statistics(
      hidden_CD,
      kernel,
      targets_C,
      soft_cap=soft_cap,
      with_entropy=with_entropy,
    )

  chunks = (_split(hidden, num_chunks), _split(targets, num_chunks))
  _, statistics = jax.lax.scan(of_chunk, None, chunks)
  statistics = jax.tree.map(_merge, statistics)
  return statistics, (hidden, kernel, targets, statistics)


def _backward(num_chunks, soft_cap, with_entropy, residuals, cotangents):
  hidden, kernel, targets, statistics = residuals
  vocabulary = jnp.arange(kernel.shape[1])

  def of_chunk(kernel_gradient, chunk):
    hidden_CD, targets_C, *of_tokens = chunk
    gradient_CV = gradient.of_products(
      reference.logits(hidden_CD, kernel, soft_cap),
      vocabulary == targets_C[:, None],
      *jax.tree.map(lambda x: x[:, None], of_tokens),
      soft_cap,
    ).astype(hidden.dtype)
    hidden_gradient = jnp.einsum(
      "CV,DV->CD", gradient_CV, kernel, preferred_element_type=jnp.float32
    )
    kernel_gradient += jnp.einsum(
      "CD,CV->DV", hidden_CD, gradient_CV, preferred_element_type=jnp.float32
    )
    return kernel_gradient, hidden_gradient.astype(hidden.dtype)

  chunks = jax.tree.map(
    lambda x: _split(x, num_chunks), (hidden, targets, statistics, cotangents)
  )
  kernel_gradient, hidden_gradient = jax.lax.scan(
    of_chunk, jnp.zeros(kernel.shape, jnp.float32), chunks
  )
  return _merge(hidden_gradient), kernel_gradient.astype(kernel.dtype), None


_token_statistics.defvjp(_forward, _backward)
