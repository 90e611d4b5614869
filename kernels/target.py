"""For which platform a program is: what backends can run is a matter of that."""

from collections.abc import Iterable

import jax


def platform() -> str:
  """ "tpu", "gpu" or "cpu": of the mesh in context, else of this process.

  A program compiled ahead of time is traced with a mesh of devices that nobody
  has to own in context.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def check(backend: str, *, known: Iterable[str], otherwise: str) -> None:
  """Raises ValueError unless a backend is known and `platform` can run it.

  Args:
    backend: a name; that of its only platform follows the last underscore.
    known: all names of the op.
    otherwise: what to choose elsewhere.
  """
  if backend not in known:
    raise ValueError(
      f"unknown backend {backend!r}; choose one of {', '.join(known)}"
    )
  needed = backend.rpartition("_")[2]
  if needed in ("tpu", "gpu") and needed != platform():
    raise ValueError(
      f"backend {backend!r} needs a {needed.upper()} but this program is for "
      f"{platform()!r}; choose {otherwise!r}"
    )
