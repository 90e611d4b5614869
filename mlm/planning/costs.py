"""Days, dollars, checkpoints and data rates of a run, from stated inputs."""

import dataclasses
import math

from mlm.models import counting
from mlm.planning import roofline, runs

_SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What nothing here can compute; each is an input with a date.

  Attributes:
    dated: when they were written down.
    prices: chip -> dollars a chip hour.
    mfu: model FLOPs utilisation to plan with.
    goodput: share of wall time in productive steps.
    host_write_bandwidth: bytes/s of one host to its object store.
    text_bytes_per_token: UTF-8 bytes of text a token stands for.
    corpus_dollars: of the corpora job, docs/scale.md.
    corpus_hours: of the same.
  """

  dated: str
  prices: dict[str, float]
  mfu: float
  goodput: float
  host_write_bandwidth: float
  text_bytes_per_token: float
  corpus_dollars: float
  corpus_hours: float

  def __post_init__(self):
    for name in ("mfu", "goodput"):
      if not 0 < getattr(self, name) <= 1:
        raise ValueError(f"{name} {getattr(self, name)} must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a budget of tokens on a run's pod.

  Attributes:
    steps: updates.
    step_seconds: of one.
    days: of wall time.
    chip_hours: of all chips.
    dollars: at the assumed price.
    tokens_per_second: of the whole pod while it steps.
  """

  steps: int
  step_seconds: float
  days: float
  chip_hours: float
  dollars: float
  tokens_per_second: float


def of_budget(
  run: runs.Run, num_tokens: float, step_seconds: float, given: Assumptions
) -> Cost:
  """Cost of `num_tokens` tokens at so many seconds a step.

  Raises:
    ValueError: if there is no price for the chip.
  """
  if run.chip.name not in given.prices:
    raise ValueError(
      f"no price for {run.chip.name}; add it to PRICES, which has "
      f"{', '.join(given.prices)}"
    )
  steps = math.ceil(num_tokens / run.tokens)
  days = steps * step_seconds / given.goodput / _SECONDS_A_DAY
  chip_hours = days * 24 * run.num_chips
  return Cost(
    steps=steps,
    step_seconds=step_seconds,
    days=days,
    chip_hours=chip_hours,
    dollars=chip_hours * given.prices[run.chip.name],
    tokens_per_second=run.tokens / step_seconds,
  )


def seconds_at(run: runs.Run, mfu: float) -> float:
  """Seconds of a step at a model FLOPs utilisation."""
  return roofline.model_flops_utilization(run, 1.0) / mfu


@dataclasses.dataclass(frozen=True)
class Storage:
  """What hosts and disks have to hold and carry.

  Attributes:
    num_hosts: of the pod.
    checkpoint_bytes: params and two moments, float32.
    save_seconds: all hosts writing at once at the assumed bandwidth.
    host_bytes: a host's part of a checkpoint, which saving in the background
      holds a copy of, beside the batches made ahead.
    cached_tokens_bytes: of the budget, int32.
    text_bytes: of the budget, at the assumed bytes a token.
    read_bandwidth: bytes/s of cached tokens, over all hosts.
  """

  num_hosts: int
  checkpoint_bytes: int
  save_seconds: float
  host_bytes: float
  cached_tokens_bytes: float
  text_bytes: float
  read_bandwidth: float


def storage(
  run: runs.Run, num_tokens: float, step_seconds: float, given: Assumptions
) -> Storage:
  """Storage of a run; the least host memory, not what a host should have."""
  hosts = run.num_chips // run.chip.chips_per_host
  checkpoint = 12 * counting.num_params(run.model)
  batches = 4 * 6 * 4 * run.tokens / hosts  # four ahead, six features, int32
  return Storage(
    num_hosts=hosts,
    checkpoint_bytes=checkpoint,
    save_seconds=checkpoint / hosts / given.host_write_bandwidth,
    host_bytes=checkpoint / hosts + batches,
    cached_tokens_bytes=4 * num_tokens,
    text_bytes=given.text_bytes_per_token * num_tokens,
    read_bandwidth=4 * run.tokens / step_seconds,
  )
