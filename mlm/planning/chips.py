"""TPUs as data sheets have them. What is bought is a chip; jax sees devices.

Sources: FLOP/s, HBM and ICI of Google's Cloud TPU pages and jax's own table;
links one way and DCN of the scaling book (github.com/jax-ml/scaling-book,
tpus.md). `unconfirmed` names what no such page said.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of TPU.

  Attributes:
    name: as topologies of libtpu begin.
    devices: of jax on a chip.
    flops: bf16 FLOP/s of a chip.
    hbm_bytes: of a chip.
    hbm_bandwidth: bytes/s of a chip.
    link_bandwidth: bytes/s of one ICI link one way; a chip has two links for
      each dimension of its torus.
    torus: dimensions.
    ring: a dimension wraps around if it is a multiple of this.
    dcn_bandwidth: bytes/s of a chip to other slices.
    chips_per_host: which share a host's memory and network.
    unconfirmed: fields without a source that says them.
  """

  name: str
  devices: int
  flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  link_bandwidth: float
  torus: int
  ring: int
  dcn_bandwidth: float
  chips_per_host: int
  unconfirmed: tuple[str, ...]


V5E = Chip(
  name="v5e",
  devices=1,
  flops=1.97e14,
  hbm_bytes=16 * 2**30,
  hbm_bandwidth=8.2e11,
  link_bandwidth=4.5e10,
  torus=2,
  ring=16,
  dcn_bandwidth=6.25e9,
  chips_per_host=4,
  unconfirmed=("dcn_bandwidth", "chips_per_host"),
)
V5P = Chip(
  name="v5p",
  devices=1,
  flops=4.59e14,
  hbm_bytes=95 * 2**30,
  hbm_bandwidth=2.765e12,
  link_bandwidth=9e10,
  torus=3,
  ring=4,
  dcn_bandwidth=6.25e9,
  chips_per_host=4,
  unconfirmed=(),
)
V6E = Chip(
  name="v6e",
  devices=1,
  flops=9.18e14,
  hbm_bytes=31.25 * 2**30,  # what the compiler has of 32
  hbm_bandwidth=1.64e12,
  link_bandwidth=9e10,
  torus=2,
  ring=16,
  dcn_bandwidth=6.25e9,
  chips_per_host=4,
  unconfirmed=("dcn_bandwidth", "chips_per_host"),
)
TPU7X = Chip(
  name="tpu7x",
  devices=2,
  flops=2.307e15,
  hbm_bytes=192 * 2**30,
  hbm_bandwidth=7.4e12,
  link_bandwidth=1e11,  # 1,200 GB/s a chip over twelve directions
  torus=3,
  ring=4,
  dcn_bandwidth=6.25e9,
  chips_per_host=4,
  unconfirmed=("link_bandwidth", "dcn_bandwidth", "chips_per_host"),
)
CHIPS = {chip.name: chip for chip in (V5E, V5P, V6E, TPU7X)}
# What jax calls their devices, and GPUs, whose peak is NVIDIA's without sparsity.
_DEVICE_FLOPS = {
  "TPU v5 lite": V5E.flops,
  "TPU v5": V5P.flops,
  "TPU v6 lite": V6E.flops,
  "TPU7x": TPU7X.flops / TPU7X.devices,
  "NVIDIA H100 80GB HBM3": 9.89e14,
  "NVIDIA H200": 9.89e14,
}


def device_flops(device_kind: str) -> float | None:
  """bf16 FLOP/s of a device that jax calls so; None where they are not known."""
  return _DEVICE_FLOPS.get(device_kind)


def of_topology(topology: str) -> Chip:
  """The chip of a topology such as "v5p:8x8x16".

  Raises:
    ValueError: if it is unknown or its dimensions are not the chip's.
  """
  name, _, sizes = topology.partition(":")
  if name not in CHIPS or not sizes:
    raise ValueError(
      f"unknown topology {topology!r}; give one of {', '.join(CHIPS)}, a colon "
      "and the sizes, such as v5p:8x8x16"
    )
  dimensions(topology)
  return CHIPS[name]


def dimensions(topology: str) -> tuple[int, ...]:
  """Chips along each dimension of a topology's torus."""
  name, _, sizes = topology.partition(":")
  try:
    numbers = tuple(int(size) for size in sizes.split("x"))
  except ValueError:
    numbers = ()
  if len(numbers) != CHIPS[name].torus:
    raise ValueError(
      f"topology {topology!r} needs {CHIPS[name].torus} sizes, such as "
      f"{name}:{'x'.join(['4'] * CHIPS[name].torus)}"
    )
  return numbers


def num_chips(topology: str) -> int:
  """Chips of a topology."""
  return math.prod(dimensions(topology))
