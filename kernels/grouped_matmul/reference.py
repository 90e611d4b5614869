"""The specification: every row times every matrix, then a choice.

Cost: 2 E M D F FLOPs, where the others take 2 M D F.

Letters: M rows, D width, F output width, E groups (experts).
"""

import jax
import jax.numpy as jnp


def grouped_matmul(
  rows: jax.Array, matrices: jax.Array, group_sizes: jax.Array
) -> jax.Array:
  """rows[i] @ matrices[group of i], where groups follow each other.

  Args:
    rows: [M, D], those of group 0 first.
    matrices: [E, D, F], same dtype.
    group_sizes: int32 [E], rows of each group; at most M in all.

  Returns:
    [M, F] in the dtype of rows; 0 in rows that belong to no group.
  """
  ends = jnp.cumsum(group_sizes)
  index = jnp.arange(rows.shape[0])
  is_member = (index < ends[:, None]) & (index >= (ends - group_sizes)[:, None])
  products = jnp.einsum(
    "MD,EDF->EMF", rows, matrices, preferred_element_type=jnp.float32
  )
  chosen = jnp.where(is_member[:, :, None], products, 0.0).sum(axis=0)
  return chosen.astype(rows.dtype)
