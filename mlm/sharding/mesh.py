"""The device mesh: its axes and their type, and programs that run on it."""

import collections
import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from mlm.sharding import processes

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
_OPTIONAL = ("expert", "sequence")
_SLICES = "slices"


def make_mesh(
  shape: Mapping[str, int], *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over all devices with the axes of `AXES`.

  The axes are Auto: the compiler propagates shardings from those of the
  arguments (jax.make_mesh would make them Explicit).

  Args:
    shape: {"data": a, "fsdp": b, "expert": c, "sequence": d, "tensor": e}, each
      >= 1, over all slices; expert and sequence may be left out, which is size
      1. {"slices": n}, 1 if left out: pods that only a data centre's network
      joins. The data axis alone crosses it, so n divides a.
    devices: those of the mesh; None for all there are.

  Raises:
    ValueError: if an axis is missing, unknown or below 1, or the sizes do not
      multiply to the number of devices, or the devices are not in n slices of
      equal size.
    RuntimeError: of `processes.check_joined`.
  """
  processes.check_joined()
  shape = {**dict.fromkeys(_OPTIONAL, 1), _SLICES: 1, **shape}
  num_slices = shape.pop(_SLICES)
  if set(shape) != set(AXES):
    raise ValueError(
      f"mesh shape {dict(shape)} must name exactly the axes {', '.join(AXES)} "
      f"(and may name {_SLICES}); give an axis you do not use the size 1"
    )
  sizes = tuple(shape[axis] for axis in AXES)
  if min(*sizes, num_slices) < 1:
    raise ValueError(f"mesh shape {dict(shape)}: every size must be at least 1")
  devices = jax.devices() if devices is None else devices
  if math.prod(sizes) != len(devices):
    product = " x ".join(map(str, sizes))
    raise ValueError(
      f"mesh {product} needs {math.prod(sizes)} devices but there are "
      f"{len(devices)}; change MESH_SHAPE so that its product is {len(devices)}"
    )
  axis_types = (AxisType.Auto,) * len(AXES)
  found = collections.Counter(getattr(d, "slice_index", 0) for d in devices)
  if len(found) != num_slices:
    raise ValueError(
      f"the {len(devices)} devices are in {len(found)} slices, MESH_SHAPE says "
      f"{num_slices}; set its {_SLICES!r} to {len(found)}"
    )
  if num_slices == 1:
    return jax.make_mesh(sizes, AXES, axis_types=axis_types, devices=devices)
  if len(set(found.values())) > 1 or sizes[0] % num_slices:
    raise ValueError(
      f"data = {sizes[0]} over {num_slices} slices of "
      f"{sorted(found.values())} devices: only data crosses slices, so each "
      f"needs as many devices, and data a multiple of {num_slices}; set data to "
      f"{-(-sizes[0] // num_slices) * num_slices}, or use fewer slices"
    )
  return Mesh(
    mesh_utils.create_hybrid_device_mesh(
      (sizes[0] // num_slices, *sizes[1:]),
      (num_slices, *[1] * (len(AXES) - 1)),
      devices,
    ),
    AXES,
    axis_types=axis_types,
  )


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
