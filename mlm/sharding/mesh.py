"""The device mesh; the one place that chooses its axes and their type."""

import math
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(shape: Mapping[str, int]) -> Mesh:
  """A mesh over all devices with axes data, fsdp and tensor.

  The axes are Auto: the compiler propagates shardings from those of the
  arguments (jax.make_mesh would make them Explicit).

  Args:
    shape: {"data": a, "fsdp": b, "tensor": c}, each >= 1.

  Raises:
    ValueError: if an axis is missing, unknown or below 1, or the sizes do not
      multiply to the number of devices.
  """
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
