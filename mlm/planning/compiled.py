"""What the real compiler says of a train step for chips that nobody has here."""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import resource
import time
from typing import Any

import jax
from jax.sharding import Mesh

from kernels import ahead_of_time
from mlm.models import backends, counting, decoder
from mlm.planning import chips, collectives, flops, lowering
from mlm.sharding import mesh as mesh_lib
from mlm.training import optimizers

# The compiler's words when a program is laid out, and before it tries.
_HBM = (
  re.compile(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm"),
  re.compile(
    r"temporaries \(([\d.]+)([MG])\) exceeds available HBM \(([\d.]+)([MG])\)"
  ),
)
_REFUSAL_CHARACTERS = 600  # the rest lists allocations
_UNITS = {"M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One compilation. Bytes and collectives are of one device, FLOPs of all.

  Attributes:
    name: of the run, as figures and tables call it.
    model: fields of the configuration.
    num_params: of the model.
    topology: as libtpu names it.
    num_chips: of the topology.
    mesh: axis -> devices.
    batch_size: rows a step.
    sequence_length: tokens a row.
    num_microbatches: parts of a batch, one after the other.
    is_accepted: False if the compiler refused.
    refusal: its own words, "" if it did not.
    needed_bytes: what it says it would need, if refused for memory.
    available_bytes: what it says there is, likewise.
    arguments_bytes: state and batch; None if refused, as all below.
    temporaries_bytes: XLA's count, which for loops exceeds what is alive.
    peak_bytes: most that is alive at once.
    flops: kind -> FLOPs of the traced step, trips counted, all devices.
    collectives: of the compiled text, see `collectives.Collective`.
    seconds: {"trace_and_lower", "compile", "processor"} on the host; the last
      is CPU time of both, which a busy host does not lengthen.
    host_peak_bytes: resident, of this process.
    versions: of what compiled.
  """

  name: str
  model: dict[str, Any]
  num_params: int
  topology: str
  num_chips: int
  mesh: dict[str, int]
  batch_size: int
  sequence_length: int
  num_microbatches: int
  is_accepted: bool
  refusal: str
  needed_bytes: int | None
  available_bytes: int | None
  arguments_bytes: int | None
  temporaries_bytes: int | None
  peak_bytes: int | None
  flops: dict[str, int]
  collectives: list[dict]
  seconds: dict[str, float]
  host_peak_bytes: int
  versions: dict[str, str]

  @property
  def num_devices(self) -> int:
    return math.prod(self.mesh.values())


def pod_mesh(topology: str, mesh_shape: dict[str, int]) -> Mesh:
  """The mesh of a whole topology, axes along its rings where they fit.

  Raises:
    ValueError: if the sizes do not multiply to its devices.
  """
  shape = {axis: mesh_shape.get(axis, 1) for axis in mesh_lib.AXES}
  unknown = sorted(set(mesh_shape) - set(shape))
  if unknown:
    raise ValueError(
      f"mesh axes {unknown} are unknown; use {', '.join(mesh_lib.AXES)}"
    )
  return ahead_of_time.pod_mesh(topology, tuple(shape.values()), tuple(shape))


def compile_step(
  *,
  name: str,
  model: decoder.DecoderConfig,
  optimizer: optimizers.MakeOptimizer,
  topology: str,
  mesh_shape: dict[str, int],
  batch_size: int,
  sequence_length: int,
  num_microbatches: int,
  z_loss: float,
) -> Compiled:
  """Compiles the update of pretrain for a TPU topology, on this host's CPU.

  Kernels are those that run on TPUs: splash attention, the fused linear
  cross-entropy, megablox. Nothing is allocated.

  Args:
    name: of the run.
    model: shape of the model.
    optimizer: of `mlm.training.optimizers`.
    topology: as libtpu names it, e.g. "v5p:8x8x16".
    mesh_shape: axis -> devices; axes left out are 1.
    batch_size: rows a step, over all devices.
    sequence_length: tokens a row.
    num_microbatches: parts of a batch, one after the other.
    z_loss: as for pretrain.

  Raises:
    ValueError: if libtpu is missing, or the mesh does not fit the topology, the
      batch or a param.
    jax.errors.JaxRuntimeError: if compilation fails for another reason than
      that the program is refused memory.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "compiling for TPUs needs libtpu, which is not installed; pip install "
      "'jax[tpu]==0.10.2' and set JAX_PLATFORMS=cpu"
    )
  chip = chips.of_topology(topology)
  mesh = pod_mesh(topology, mesh_shape)
  made = lowering.train_step(
    model=model,
    optimizer=optimizer,
    mesh=mesh,
    batch_size=batch_size,
    sequence_length=sequence_length,
    num_microbatches=num_microbatches,
    z_loss=z_loss,
    backends=backends.TPU,
    head_backend="pallas_tpu",
  )
  started, of_processor = time.monotonic(), time.process_time()
  with jax.set_mesh(mesh):
    counted = flops.of_function(made.step, *made.arguments)
  lowered = made.step.lower(*made.arguments)
  seconds = {"trace_and_lower": round(time.monotonic() - started, 1)}
  started = time.monotonic()
  refusal, program = "", None
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    refusal = str(error)
    if "RESOURCE_EXHAUSTED" not in refusal:
      raise
  seconds["compile"] = round(time.monotonic() - started, 1)
  seconds["processor"] = round(time.process_time() - of_processor, 1)
  needed, available = shortfall(refusal)
  memory = program and program.memory_analysis()
  rows = collectives.of_text(program.as_text()) if program else []
  return Compiled(
    name=name,
    model=dataclasses.asdict(model),
    num_params=counting.num_params(model),
    topology=topology,
    num_chips=mesh.size // chip.devices,
    mesh=dict(mesh.shape),
    batch_size=batch_size,
    sequence_length=sequence_length,
    num_microbatches=num_microbatches,
    is_accepted=program is not None,
    refusal=refusal[:_REFUSAL_CHARACTERS],
    needed_bytes=needed,
    available_bytes=available,
    arguments_bytes=memory and memory.argument_size_in_bytes,
    temporaries_bytes=memory and memory.temp_size_in_bytes,
    peak_bytes=memory and memory.peak_memory_in_bytes,
    flops=counted,
    collectives=[row._asdict() for row in rows],
    seconds=seconds,
    host_peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    versions={
      "jax": jax.__version__,
      "platform": mesh.devices.flat[0].client.platform_version.split("\n")[0],
    },
  )


def shortfall(refusal: str) -> tuple[int | None, int | None]:
  """Bytes that a refused program needs and has, if its refusal says."""
  for pattern in _HBM:
    if match := pattern.search(refusal):
      number, unit, has, has_unit = match.groups()
      return _bytes(number, unit), _bytes(has, has_unit)
  return None, None


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * _UNITS[unit])


def as_fields(model: decoder.DecoderConfig) -> dict[str, Any]:
  """Fields of a configuration as JSON gives them back."""
  return json.loads(json.dumps(dataclasses.asdict(model)))


def write(compiled: Compiled, directory: str) -> str:
  """Writes DIRECTORY/<name>.json and returns its path."""
  path = os.path.join(directory, f"{compiled.name}.json")
  text = json.dumps(dataclasses.asdict(compiled), indent=1)
  pathlib.Path(path).write_text(f"{text}\n", encoding="utf-8")
  return path


def read_all(directory: str) -> list[Compiled]:
  """Every compilation recorded in a directory, by name.

  Raises:
    ValueError: if a file is not one; the message names it.
  """
  found = []
  for path in sorted(pathlib.Path(directory).glob("*.json")):
    try:
      found.append(Compiled(**json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, json.JSONDecodeError) as error:
      raise ValueError(
        f"{path} is not a result of compile_tpu ({error}); remove it or compile "
        "again"
      ) from error
  return found
