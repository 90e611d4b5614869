"""Plain XLA in chunks of tokens, logits recomputed in the backward pass.

Cost: 2 N D V FLOPs forward and 6 N D V backward; 4 C V bytes for the logits of
one chunk of C tokens, C chosen so that they stay under `CHUNK_BYTES`. What fits
one chunk is not recomputed: it is the reference.
"""

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import reference

CHUNK_BYTES = 1 << 24


def token_statistics(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> reference.TokenStatistics:
  """As `reference.token_statistics`, in bounded memory."""
  num_tokens, vocab_size = hidden.shape[0], kernel.shape[1]
  chunk = max(1, CHUNK_BYTES // (4 * vocab_size))
  if num_tokens <= chunk:
    return reference.token_statistics(hidden, kernel, targets)
  num_chunks = -(-num_tokens // chunk)
  padding = num_chunks * chunk - num_tokens
  hidden = jnp.pad(hidden, ((0, padding), (0, 0)))
  targets = jnp.pad(targets, (0, padding))

  @jax.checkpoint
  def of_chunk(hidden_chunk, targets_chunk):
    return reference.token_statistics(hidden_chunk, kernel, targets_chunk)

  _, statistics = jax.lax.scan(
    lambda carry, xs: (carry, of_chunk(*xs)),
    None,
    (
      hidden.reshape(num_chunks, chunk, -1),
      targets.reshape(num_chunks, chunk),
    ),
  )
  return jax.tree.map(lambda x: x.reshape(-1)[:num_tokens], statistics)
