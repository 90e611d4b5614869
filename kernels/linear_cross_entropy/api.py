"""The one public function of this op; the caller names the backend."""

import jax

from kernels.linear_cross_entropy import chunked, reference

TokenStatistics = reference.TokenStatistics

_BACKENDS = {
  "reference": reference.token_statistics,
  "chunked": chunked.token_statistics,
}


def default_backend() -> str:
  """The backend for the present platform: chunked XLA everywhere so far."""
  return "chunked"


def token_statistics(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array, *, backend: str
) -> TokenStatistics:
  """Statistics of logits = hidden @ kernel for each token.

  Differentiable in hidden and kernel, for any cotangents of the three outputs.

  Args:
    hidden: [..., D], any float dtype.
    kernel: [D, V].
    targets: int32 [...], in [0, V).
    backend: "chunked" or "reference".

  Returns:
    TokenStatistics of float32 [...].

  Raises:
    ValueError: if the backend is unknown or the shapes do not fit.
  """
  if backend not in _BACKENDS:
    raise ValueError(
      f"unknown backend {backend!r}; choose one of {', '.join(_BACKENDS)}"
    )
  leading = targets.shape
  if hidden.shape[:-1] != leading or hidden.shape[-1] != kernel.shape[0]:
    raise ValueError(
      f"hidden {hidden.shape}, kernel {kernel.shape} and targets {leading} do "
      "not fit; need [..., D], [D, V] and [...]"
    )
  statistics = _BACKENDS[backend](
    hidden.reshape(-1, hidden.shape[-1]), kernel, targets.reshape(-1)
  )
  return jax.tree.map(lambda x: x.reshape(leading), statistics)
