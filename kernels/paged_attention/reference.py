"""The specification: each row's pages gathered, then jax.nn's attention.

Cost: 4 N n M S H FLOPs, and a copy of all pages of each row, whatever its
length: 2 N M S K H numbers.

Letters: N rows, n query heads, K key/value heads, H head width, P pages of the
pool, S slots of a page, M pages of a row.
"""

import jax
import jax.numpy as jnp


def append(
  pages: jax.Array,
  key: jax.Array,
  value: jax.Array,
  table: jax.Array,
  lengths: jax.Array,
  is_new: jax.Array,
) -> jax.Array:
  """The pages with one more token a row, in the slot after its last.

  Args:
    pages: [P, S, 2 K, H].
    key: [N, K, H].
    value: [N, K, H].
    table: int32 [N, M], the pages of each row in order.
    lengths: int32 [N], tokens that a row has.
    is_new: bool [N]; the others get nothing.
  """
  num_pages, slots, combined, width = pages.shape
  page = jnp.take_along_axis(
    table, lengths[:, None] // slots, axis=1, mode="clip"
  )[:, 0]
  # Each key head and its value head are neighbours.
  tokens = jnp.stack([key, value], axis=2).reshape(-1, combined, width)
  return pages.at[jnp.where(is_new, page, num_pages), lengths % slots].set(
    tokens.astype(pages.dtype), mode="drop"
  )


def attend(
  query: jax.Array, pages: jax.Array, table: jax.Array, lengths: jax.Array
) -> jax.Array:
  """softmax(query key^T / sqrt(H)) value over the first slots of a row.

  Args:
    query: [N, n, H]; K divides n.
    pages: [P, S, 2 K, H].
    table: int32 [N, M].
    lengths: int32 [N], slots to attend to, at least 1.

  Returns:
    [N, n, H].
  """
  N, M = table.shape
  _, slots, combined, width = pages.shape
  of_rows = pages[table].reshape(N, M * slots, combined // 2, 2, width)
  mask = jnp.arange(M * slots) < lengths[:, None]
  return jax.nn.dot_product_attention(
    query[:, None],
    of_rows[..., 0, :],
    of_rows[..., 1, :],
    mask=mask[:, None, None],
    implementation="xla",
  )[:, 0]
