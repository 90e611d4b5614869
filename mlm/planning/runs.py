"""What is planned: a model on a mesh of a topology, and tokens of a step."""

import dataclasses
import math

from mlm.models import decoder
from mlm.planning import chips


@dataclasses.dataclass(frozen=True)
class Run:
  """One training step on one kind of pod.

  Attributes:
    name: as tables call it.
    model: shape of the model.
    topology: of one slice, as libtpu names it.
    num_slices: slices, between which is only DCN; the mesh axis data goes over
      them first.
    mesh: axis -> devices, over all slices; axes left out are 1.
    batch_size: rows a step.
    sequence_length: tokens a row.
    num_microbatches: parts of a batch, one after the other.
  """

  name: str
  model: decoder.DecoderConfig
  topology: str
  num_slices: int
  mesh: dict[str, int]
  batch_size: int
  sequence_length: int
  num_microbatches: int

  def __post_init__(self):
    if self.num_devices != math.prod(self.mesh.values()):
      raise ValueError(
        f"run {self.name!r}: mesh {self.mesh} has "
        f"{math.prod(self.mesh.values())} devices, {self.num_slices} x "
        f"{self.topology} has {self.num_devices}; change one"
      )
    if self.size("data") % self.num_slices:
      raise ValueError(
        f"run {self.name!r}: {self.num_slices} slices need a data axis that "
        f"they divide, not {self.size('data')}"
      )
    if self.batch_size % (self.row_shards * self.num_microbatches):
      raise ValueError(
        f"run {self.name!r}: {self.batch_size} rows are not divisible by "
        f"{self.row_shards} shards x {self.num_microbatches} micro-batches; "
        "change the batch or the mesh"
      )

  def size(self, axis: str) -> int:
    """Devices along a mesh axis."""
    return self.mesh.get(axis, 1)

  @property
  def chip(self) -> chips.Chip:
    return chips.of_topology(self.topology)

  @property
  def num_chips(self) -> int:
    return self.num_slices * chips.num_chips(self.topology)

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.chip.devices

  @property
  def row_shards(self) -> int:
    return math.prod(self.size(axis) for axis in ("data", "fsdp", "expert"))

  @property
  def tokens(self) -> int:
    """Of a step."""
    return self.batch_size * self.sequence_length

  @property
  def device_tokens(self) -> int:
    """Of a step on a device, between its layers' collectives over tensor."""
    return self.tokens // self.row_shards // self.size("sequence")


def scaled(
  *, run: Run, placements: list[tuple[int, str, dict[str, int]]]
) -> list[Run]:
  """The same step in other places.

  Args:
    run: whose model and tokens of a step all have.
    placements: (slices, topology of each, mesh over all).
  """
  return [
    dataclasses.replace(
      run,
      name=f"{run.name}, {slices} x {topology}",
      num_slices=slices,
      topology=topology,
      mesh=mesh,
    )
    for slices, topology, mesh in placements
  ]
