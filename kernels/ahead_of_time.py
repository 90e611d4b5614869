"""Compiles for TPUs that are not there, with libtpu, and GPUs, on any machine.

The compiler says whether a program fits a chip, and the memory it needs; it
says nothing about time. Needs `pip install libtpu` (as in `jax[tpu]`); two
processes at once need ALLOW_MULTIPLE_LIBTPU_LOAD=1.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Chip(NamedTuple):
  """Name, smallest topology, and pltpu.ChipVersion and cores of a device."""

  name: str
  topology: str
  version: str
  num_cores: int


V5E = Chip("v5e", "v5e:2x2", "TPU_V5E", 1)
V5P = Chip("v5p", "v5p:2x2x1", "TPU_V5P", 2)
V6E = Chip("v6e", "v6e:2x2", "TPU_V6E", 1)
TPU7X = Chip("TPU7x", "tpu7x:2x2x1", "TPU_7X", 1)
CHIPS = (V5E, V5P, V6E, TPU7X)


class Needs(NamedTuple):
  """Of one device, by the compiler: bytes, FLOPs."""

  arguments: int
  temporaries: int
  peak: int
  flops: float

  def __str__(self):
    *sizes, flops = self
    arguments, temporaries, peak = (f"{size / 2**20:,.1f}" for size in sizes)
    return (
      f"arguments {arguments}, temporaries {temporaries}, peak {peak} MiB, "
      f"{flops:.3g} FLOPs"
    )


def vmem_bytes(chip: Chip) -> int:
  """On-chip memory of one core of a chip, bytes."""
  version = getattr(pltpu.ChipVersion, chip.version)
  return pltpu.get_tpu_info_for_chip(
    version, chip.num_cores
  ).vmem_capacity_bytes


@functools.cache  # meshes of two calls may then meet in one program
def _devices(topology: str) -> tuple:
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  return tuple(
    topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
  )


def mesh(topology: str, shape: Sequence[int], names: Sequence[str]) -> Mesh:
  """A mesh of the first devices of a topology that nobody has to own."""
  devices = _devices(topology)[: math.prod(shape)]
  return Mesh(np.array(devices).reshape(shape), names)


def pod_mesh(topology: str, shape: Sequence[int], names: Sequence[str]) -> Mesh:
  """A mesh of all devices of a topology, axes along its rings where they fit.

  Where they do not, an axis gets a part of a ring.

  Raises:
    ValueError: if the shape is not of as many devices as the topology has.
  """
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  described = topologies.get_topology_desc(
    topology_name=topology, platform="tpu"
  )
  if math.prod(shape) != len(described.devices):
    sizes = " x ".join(map(str, shape))
    raise ValueError(
      f"mesh {sizes} has {math.prod(shape)} devices, but {topology} has "
      f"{len(described.devices)}; change MESH_SHAPE"
    )
  devices = functools.partial(
    mesh_utils.create_device_mesh, shape, devices=described.devices
  )
  try:
    return Mesh(devices(), names)
  except NotImplementedError:
    return Mesh(devices(allow_split_physical_axes=True), names)


def gpu_mesh(target_config: str) -> Mesh:
  """A mesh of one GPU that nobody has to own, its axis data.

  Needs jax's CUDA plugin and, from nvidia-cuda-nvcc, ptxas.

  Args:
    target_config: XLA's GpuTargetConfigProto of the GPU, as text.
  """
  described = topologies.get_topology_desc(
    platform="cuda",
    topology_name="gpu",
    target_config=target_config,
    topology="1x1x1",
  )
  return Mesh(np.array(described.devices), ("data",))


def compile_for(
  function: Callable,
  *arguments: tuple[Sequence[int], str, PartitionSpec],
  mesh: Mesh,
) -> Needs:
  """What `function`, jitted, needs on a device of a mesh.

  Args:
    function: of arrays.
    *arguments: shape, dtype and partition of each array.
    mesh: of `mesh`.

  Raises:
    jax.errors.JaxRuntimeError: if the compiler refuses, which is what this is
      for; its message says which memory ran out and by how much.
  """
  shapes = [
    jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, partition))
    for shape, dtype, partition in arguments
  ]
  return needs(jax.jit(function).lower(*shapes))


def needs(lowered: jax.stages.Lowered) -> Needs:
  """What a lowered program needs on a device; raises as `compile_for`."""
  compiled = lowered.compile()
  memory = compiled.memory_analysis()
  return Needs(
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    memory.peak_memory_in_bytes,
    (compiled.cost_analysis() or {}).get("flops", 0.0),  # none for GPUs
  )
