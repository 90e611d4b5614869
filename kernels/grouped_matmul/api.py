"""The public function of this op; the caller names the backend."""

import functools

import jax

from kernels import target
from kernels.grouped_matmul import megablox_tpu, ragged, reference

BACKENDS = {
  "reference": reference.grouped_matmul,
  "ragged": ragged.grouped_matmul,
  "megablox_tpu": functools.partial(
    megablox_tpu.grouped_matmul, interpret=False
  ),
}


def default_backend() -> str:
  """ "megablox_tpu" on TPUs, "ragged" elsewhere."""
  return "megablox_tpu" if target.platform() == "tpu" else "ragged"


def grouped_matmul(
  rows: jax.Array,
  matrices: jax.Array,
  group_sizes: jax.Array,
  *,
  backend: str,
) -> jax.Array:
  """rows[i] @ matrices[group of i], where groups follow each other.

  Differentiable in rows and matrices. On several TPUs call it inside shard_map.

  Args:
    rows: [M, D], those of group 0 first.
    matrices: [E, D, F], same dtype.
    group_sizes: int32 [E], rows of each group; at most M in all.
    backend: "ragged", "megablox_tpu" (one TPU) or "reference".

  Returns:
    [M, F] in the dtype of rows; 0 in rows that belong to no group.

  Raises:
    ValueError: if the backend is unknown or cannot run here, or the shapes or
      dtypes do not fit.
  """
  target.check(backend, known=BACKENDS, otherwise="ragged")
  if rows.dtype != matrices.dtype or matrices.shape != (
    *group_sizes.shape,
    rows.shape[1],
    matrices.shape[-1],
  ):
    raise ValueError(
      f"rows {rows.dtype} {rows.shape}, matrices {matrices.dtype} "
      f"{matrices.shape} and group_sizes {group_sizes.shape} do not fit; need "
      "one dtype, and [M, D], [E, D, F] and [E]"
    )
  return BACKENDS[backend](rows, matrices, group_sizes)
