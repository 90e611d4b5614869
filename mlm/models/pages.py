"""A cache in pages, for rows that begin and end at different times.

A group is the k rows of one prompt. Its pages are its own: first those of its
prompt, which its rows share, then some for each row. So a group can be given to
another prompt without moving anything, and nothing has to allocate. A prompt's
last page, if it is not full, is copied for each row, which goes on in it.

Letters: G groups, k rows a group, N = G k rows, L layers, Q pages of a group in
a layer, S slots of a page, M pages of a row, K key/value heads, H head width,
F prompts, P their columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.paged_attention import api as paged_attention
from mlm.sharding import rules


class Rows(NamedTuple):
  """What the layers are told of the rows.

  Attributes:
    table: int32 [N, M], pages of the first layer, in the order of tokens.
    lengths: int32 [N], tokens that a row has.
    is_new: bool [N], whether it gets another one.
  """

  table: jax.Array
  lengths: jax.Array
  is_new: jax.Array


def init(
  *,
  num_layers: int,
  num_kv_heads: int,
  head_dim: int,
  dtype: jnp.dtype,
  num_groups: int,
  rows_per_group: int,
  prompt_length: int,
  response_length: int,
  page_size: int,
) -> dict:
  """An empty cache.

  Args:
    num_layers: L.
    num_kv_heads: K.
    head_dim: H.
    dtype: of keys and values.
    num_groups: G.
    rows_per_group: k.
    prompt_length: P, the longest prompt.
    response_length: tokens that each row can take besides.
    page_size: S.

  Returns:
    {"pages": [G, L, Q, S, 2 K, H], "table": int32 [N, M], "lengths": int32
    [N]}; key head i is 2 i of 2 K, its value head 2 i + 1.
  """
  shared = prompt_length // page_size
  rest = min(prompt_length, page_size - 1)
  own = -(-(rest + response_length) // page_size)
  num_rows = num_groups * rows_per_group
  return {
    "pages": jnp.zeros(
      (
        num_groups,
        num_layers,
        shared + rows_per_group * own,
        page_size,
        2 * num_kv_heads,
        head_dim,
      ),
      dtype,
    ),
    "table": jnp.zeros((num_rows, shared + own), jnp.int32),
    "lengths": jnp.zeros(num_rows, jnp.int32),
  }


def fill(cache: dict, prompts: dict, groups: jax.Array) -> dict:
  """The cache with groups given to other prompts.

  Args:
    cache: of `init`.
    prompts: of a model's `extend`, all its P slots written, padding on the
      left; P as in `init`.
    groups: int32 [F], the group of each prompt; G for a prompt to leave out.
  """
  G, L, Q, S = cache["pages"].shape[:4]
  num_rows, M = cache["table"].shape
  k = num_rows // G
  _, F, P, K, H = prompts["keys"].shape
  shared = P // S
  own = M - shared
  lengths = prompts["valid"].sum(axis=1, dtype=jnp.int32)
  # Tokens from slot 0 on; what follows them is never read.
  slots = jnp.arange((shared + 1) * S) + (P - lengths)[:, None]
  slots = jnp.minimum(slots, P - 1)[None, :, :, None, None]
  compact = jnp.stack(
    [
      jnp.take_along_axis(prompts[name], slots, axis=2)
      for name in ("keys", "values")
    ],
    axis=4,
  ).reshape(L, F, shared + 1, S, 2 * K, H)
  num_full = lengths // S
  last = jnp.take_along_axis(
    compact, num_full[None, :, None, None, None, None], axis=2
  )
  places = jnp.arange(M)
  is_shared = places < num_full[:, None, None]
  row = jnp.arange(k)[:, None]
  pages_of_rows = jnp.where(  # [F, k, M], within the group
    is_shared,
    places,
    shared + row * own + jnp.minimum(places - num_full[:, None, None], own - 1),
  )
  first = (groups * L + jnp.arange(L)[:, None]) * Q  # [L, F]
  of_prompt = first[..., None] + jnp.arange(shared)
  of_rows = first[..., None] + shared + own * jnp.arange(k)
  pages = cache["pages"].reshape(-1, S, 2 * K, H)
  for indices, new in (
    (of_prompt, compact[:, :, :shared]),
    (of_rows, jnp.broadcast_to(last, (L, F, k, S, 2 * K, H))),
  ):
    pages = paged_attention.write_pages(
      pages,
      indices.reshape(-1),
      new.reshape(-1, S, 2 * K, H),
      **_placement(G, K),
    )

  def put(name, new):
    """New values [F, k, ...] of the groups' rows."""
    old = cache[name].reshape(G, k, *cache[name].shape[1:])
    return old.at[groups].set(new, mode="drop").reshape(cache[name].shape)

  filled = {
    "pages": pages.reshape(cache["pages"].shape),
    "table": put("table", pages_of_rows + first[0][:, None, None]),
    "lengths": put("lengths", lengths[:, None]),
  }
  if "languages" in cache:  # of adapters
    filled["languages"] = put("languages", prompts["languages"][:, None])
  return filled


def extended(cache: dict, pages: jax.Array, is_new: jax.Array) -> dict:
  """The cache after its rows got a token.

  Args:
    cache: as it was.
    pages: as the layers leave them.
    is_new: bool [N], which rows.
  """
  return {**cache, "pages": pages, "lengths": cache["lengths"] + is_new}


def attend(
  pages: jax.Array,
  rows: Rows,
  layer: jax.Array,
  backend: str,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Writes a layer's keys and values of the new tokens and attends.

  Args:
    pages: [G, L, Q, S, 2 K, H].
    rows: N of them.
    layer: int32 scalar.
    backend: of the kernel.
    query: [N, 1, heads, H], not scaled.
    key: [N, 1, K, H].
    value: [N, 1, K, H].

  Returns:
    ([N, 1, heads, H], the pages).
  """
  G, _, Q, *of_page = pages.shape
  out, now = paged_attention.paged_attention(
    query[:, 0],
    key[:, 0],
    value[:, 0],
    pages.reshape(-1, *of_page),
    rows.table + layer * Q,
    *rows[1:],
    backend=backend,
    **_placement(G, key.shape[2]),
  )
  return out[:, None], now.reshape(pages.shape)


def _placement(num_groups, num_kv_heads):
  """Groups over the axes of the batch, with their pages; heads over tensor."""
  where = rules.kernel_placement(num_groups, num_kv_heads, 1)
  return {name: where[name] for name in ("mesh", "batch_axes", "head_axis")}
