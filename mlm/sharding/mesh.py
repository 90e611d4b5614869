"""The device mesh: its axes and their type, and programs that run on it."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
_OPTIONAL = ("expert", "sequence")


def make_mesh(shape: Mapping[str, int]) -> Mesh:
  """A mesh over all devices with the axes of `AXES`.

  The axes are Auto: the compiler propagates shardings from those of the
  arguments (jax.make_mesh would make them Explicit).

  Args:
    shape: {"data": a, "fsdp": b, "expert": c, "sequence": d, "tensor": e}, each
      >= 1; expert and sequence may be left out, which is size 1.

  Raises:
    ValueError: if an axis is missing, unknown or below 1, or the sizes do not
      multiply to the number of devices.
  """
  shape = {**dict.fromkeys(_OPTIONAL, 1), **shape}
  if set(shape) != set(AXES):
    raise ValueError(
      f"mesh shape {dict(shape)} must name exactly the axes {', '.join(AXES)}; "
      "give an axis you do not use the size 1"
    )
  sizes = tuple(shape[axis] for axis in AXES)
  if min(sizes) < 1:
    raise ValueError(f"mesh shape {dict(shape)}: every size must be at least 1")
  num_devices = len(jax.devices())
  if math.prod(sizes) != num_devices:
    product = " x ".join(map(str, sizes))
    raise ValueError(
      f"mesh {product} needs {math.prod(sizes)} devices but there are "
      f"{num_devices}; change MESH_SHAPE so that its product is {num_devices}"
    )
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def jit(function: Callable, **options) -> Callable:
  """`jax.jit` with the mesh that the arguments live on in context.

  What the function calls finds it by `jax.sharding.get_abstract_mesh`:
  `rules.constrain`, and what runs kernels inside `jax.shard_map`, which the
  compiler cannot split. Arguments on no mesh leave the context as it is.

  Args:
    function: of pytrees of arrays, by position.
    **options: of `jax.jit`.

  Returns:
    What jax.jit would, called or lowered; arguments to lower may be abstract.
  """
  jitted = jax.jit(function, **options)

  @functools.wraps(function)
  def on_mesh(*args):
    with _mesh_of(args):
      return jitted(*args)

  def lower(*args):
    with _mesh_of(args):
      return jitted.lower(*args)

  on_mesh.lower = lower
  return on_mesh


def _mesh_of(args):
  """Context of the first mesh among arguments."""
  for x in jax.tree.leaves(args):
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, NamedSharding):
      return jax.set_mesh(sharding.mesh)
  return contextlib.nullcontext()
