"""Time of a train step from FLOPs, bytes and what carries them.

Each term is the least time of one resource, in seconds, for one step with remat
"full": the floor is the largest of them (all overlap), and the estimate lets
only what the compiler can prefetch overlap: weights over fsdp and gradients
over DCN beside the products, while collectives over tensor and expert, which
the next product waits for, come on top.

Letters: D model width, F MLP width, L layers, P params, X bytes of a device's
activations of width D in bfloat16.
"""

import dataclasses
import itertools
import math

from mlm.models import counting
from mlm.planning import chips, memory, runs

_WEIGHT = 2  # bytes, bfloat16, as gathered and summed
_PASSES = 3  # forward, recomputation, backward


@dataclasses.dataclass(frozen=True)
class StepTime:
  """Seconds of one step by resource.

  Attributes:
    compute: all multiplications, at the peak of the matrix units.
    hbm: optimizer, gathered weights, activations.
    fsdp: weights gathered twice and gradients summed once, over ICI.
    tensor: activations gathered and summed over the axis tensor, over ICI.
    expert: rows gathered and sums scattered over the axis expert, over ICI.
    dcn: gradients summed between slices.
  """

  compute: float
  hbm: float
  fsdp: float
  tensor: float
  expert: float
  dcn: float

  @property
  def floor(self) -> float:
    return max(dataclasses.astuple(self))

  @property
  def estimate(self) -> float:
    overlapped = max(self.compute, self.hbm, self.fsdp, self.dcn)
    return overlapped + self.tensor + self.expert


def of_run(run: runs.Run) -> StepTime:
  """Terms of a step.

  * compute: `counting.executed_flops_per_token` x tokens / (devices x peak);
  * hbm: 32 bytes a param of the device for AdamW (reads params, moments and
    gradient, writes all but the last, whose writing is counted too); 12 bytes a
    gathered weight (written and read in each of three passes); and 4 times
    (backward counts twice) 6 X + 6 X F / (D tensor) a layer for activations;
  * fsdp: 3 x 2 bytes x gathered params x (n - 1) / n, in every micro-batch;
  * tensor: 12 L X (n - 1) / n: a layer gathers and sums twice in each pass;
  * expert: 6 L X (n - 1): a layer gathers the rows of n devices and scatters
    their sums, in each pass;
  * dcn: 2 x 4 bytes x params of the device x (n - 1) / n, between n slices.

  The gathered params are those of a device's part along tensor and expert.
  """
  config, chip = run.model, run.chip
  X = run.device_tokens * config.d_model * 2
  tensor, fsdp, expert = (run.size(a) for a in ("tensor", "fsdp", "expert"))
  of_device = sum(memory.sharded_params(run).values())
  gathered = of_device * fsdp
  bandwidth, parts = axis_bandwidths(run), run.num_microbatches
  flops = run.tokens * counting.executed_flops_per_token(
    config, run.sequence_length
  )
  active = 1 if config.moe is None else config.moe.num_experts_per_token
  hbm_bytes = 32 * of_device + parts * 2 * _PASSES * _WEIGHT * gathered
  hbm_bytes += (
    4
    * config.num_layers
    * X
    * (6 + 6 * active * config.d_ff / config.d_model / tensor)
  )

  def over(axis, num_bytes):
    return num_bytes / bandwidth[axis] if run.size(axis) > 1 else 0.0

  layers = config.num_layers * X
  slices = run.num_slices
  return StepTime(
    compute=flops / (run.num_chips * chip.flops),
    hbm=hbm_bytes / (chip.hbm_bandwidth / chip.devices),
    fsdp=over("fsdp", parts * 3 * _WEIGHT * gathered * (fsdp - 1) / fsdp),
    tensor=over("tensor", 12 * layers * (tensor - 1) / tensor),
    expert=over("expert", 6 * layers * (expert - 1)),
    dcn=(
      8
      * of_device
      * (slices - 1)
      / slices
      / (chip.dcn_bandwidth / chip.devices)
    ),
  )


def axis_bandwidths(run: runs.Run) -> dict[str, float]:
  """ICI bytes/s that a device sends along each mesh axis of a slice.

  An axis that is a product of whole dimensions of the torus has two links a
  dimension, one if it does not wrap around; what does not fit whole
  dimensions shares them and is counted one link. Devices of a chip share its
  links.
  """
  chip = run.chip
  sizes = {axis: n for axis, n in run.mesh.items() if n > 1}
  if "data" in sizes:
    sizes["data"] //= run.num_slices
  dimensions = list(chips.dimensions(run.topology))
  link = chip.link_bandwidth / chip.devices
  result = {}
  # Small axes first: a ring of its own is worth most to them.
  for axis, size in sorted(sizes.items(), key=lambda item: item[1]):
    chosen = _whole_dimensions(dimensions, size, chip.devices)
    links = 0
    for dimension in chosen:
      dimensions.remove(dimension)
      links += 2 if dimension % chip.ring == 0 else 1
    result[axis] = link * max(links, 1)
  return result


def _whole_dimensions(dimensions, size, devices) -> tuple[int, ...]:
  """Dimensions whose product is size, or size without a chip's devices."""
  for number in range(1, len(dimensions) + 1):
    for chosen in itertools.combinations(dimensions, number):
      if math.prod(chosen) in (size, size / devices):
        return chosen
  return ()


def model_flops_utilization(run: runs.Run, seconds: float) -> float:
  """Training FLOPs, without what runs twice, over the peak of the chips."""
  flops = run.tokens * counting.training_flops_per_token(
    run.model, run.sequence_length
  )
  return flops / (seconds * run.num_chips * run.chip.flops)
