"""The public functions of this op; the caller names the backend."""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from kernels import target
from kernels.linear_cross_entropy import (
  chunked,
  pallas_tpu,
  reference,
  sharded,
)

TokenStatistics = reference.TokenStatistics


def _chunked(hidden, kernel, targets, **options) -> TokenStatistics:
  chunk_tokens = chunked.largest_chunk(kernel.shape[1])
  return chunked.token_statistics(
    hidden, kernel, targets, **options, chunk_tokens=chunk_tokens
  )


BACKENDS = {
  "reference": reference.token_statistics,
  "chunked": _chunked,
  "pallas_tpu": pallas_tpu.token_statistics_on_this_chip,
}


def default_backend() -> str:
  """ "pallas_tpu" on TPUs, "chunked" elsewhere."""
  return "pallas_tpu" if target.platform() == "tpu" else "chunked"


def _checked(
  hidden, kernel, targets, backend, soft_cap, with_entropy
) -> Callable:
  """The function of a backend, if it can run on these arrays here."""
  target.check(backend, known=BACKENDS, otherwise="chunked")
  fits = hidden.shape[:-1] == targets.shape and kernel.ndim == 2
  if not fits or hidden.shape[-1] != kernel.shape[0]:
    raise ValueError(
      f"hidden {hidden.shape}, kernel {kernel.shape} and targets "
      f"{targets.shape} do not fit; need [..., D], [D, V] and [...]"
    )
  if soft_cap is not None and soft_cap <= 0:
    raise ValueError(
      f"soft_cap {soft_cap} is not above 0; give None for logits without a cap"
    )
  return functools.partial(
    BACKENDS[backend], soft_cap=soft_cap, with_entropy=with_entropy
  )


def token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  backend: str,
  soft_cap: float | None = None,
  with_entropy: bool = False,
) -> TokenStatistics:
  """Statistics of logits = hidden @ kernel for each token.

  Differentiable in hidden and kernel, for any cotangents of the outputs. An
  ignored token needs only a weight of 0 outside: its gradients are then 0.

  Args:
    hidden: [..., D], any float dtype.
    kernel: [D, V].
    targets: int32 [...], in [0, V).
    backend: "chunked", "pallas_tpu" (on several TPUs call
      `sharded_token_statistics`) or "reference".
    soft_cap: c > 0 of logits = c tanh(hidden @ kernel / c); None for none.
    with_entropy: whether to fill in the entropy, in nats; else it is None.

  Returns:
    TokenStatistics of float32 [...].

  Raises:
    ValueError: if the backend is unknown or cannot run here, the shapes do not
      fit, or soft_cap is not above 0.
  """
  function = _checked(hidden, kernel, targets, backend, soft_cap, with_entropy)
  statistics = function(
    hidden.reshape(-1, hidden.shape[-1]), kernel, targets.reshape(-1)
  )
  return jax.tree.map(lambda x: x.reshape(targets.shape), statistics)


def sharded_token_statistics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  *,
  backend: str,
  mesh: Mesh,
  token_axes: tuple[str, ...],
  length_axis: str | None,
  vocab_axis: str,
  soft_cap: float | None = None,
  with_entropy: bool = False,
) -> TokenStatistics:
  """`token_statistics` with every device on its own tokens and vocabulary.

  Args:
    hidden: [..., D]; the first dimension is split over token_axes, the second
      over length_axis.
    kernel: [D, V]; V is split over vocab_axis.
    targets: int32 [...], in [0, V).
    backend: of each device, as for `token_statistics`.
    mesh: of the arrays; may be abstract inside jit.
    token_axes: names of mesh axes.
    length_axis: name of a mesh axis, or None.
    vocab_axis: name of a mesh axis.
    soft_cap: as for `token_statistics`.
    with_entropy: as for `token_statistics`.

  Returns:
    TokenStatistics of float32 [...], split as the tokens.

  Raises:
    ValueError: as `token_statistics`, or if the mesh does not divide the tokens
      or the vocabulary.
  """
  function = _checked(hidden, kernel, targets, backend, soft_cap, with_entropy)
  num_token_shards = math.prod(mesh.shape[axis] for axis in token_axes)
  splits = [
    ("first dimension of hidden", hidden.shape[0], num_token_shards),
    ("vocabulary", kernel.shape[1], mesh.shape[vocab_axis]),
  ]
  if length_axis is not None:
    length, shards = hidden.shape[1], mesh.shape[length_axis]
    splits.append(("second dimension of hidden", length, shards))
  for name, size, shards in splits:
    if size % shards:
      raise ValueError(
        f"{name} of {size} is not divisible by its {shards} shards; pad it to "
        f"{-(-size // shards) * shards} or change the mesh"
      )
  return sharded.token_statistics(
    hidden,
    kernel,
    targets,
    of_shard=function,
    mesh=mesh,
    token_axes=token_axes,
    length_axis=length_axis,
    vocab_axis=vocab_axis,
  )
