"""Published throughput of trainers, beside what the roofline says of the same.

published_throughput.tsv: MaxText's, from its docs/reference/models/tiering.md
and guides/optimization/custom_model.md of August 2026. Their meshes and batches
are not there: rows_per_chip is assumed, and all chips on the axis fsdp.
"""

import csv
import dataclasses
import functools
import pathlib
import statistics

from mlm.models import decoder, moe
from mlm.planning import chips, roofline, runs

_TABLE = pathlib.Path(__file__).with_name("published_throughput.tsv")


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One published figure and ours for the same shapes.

  Attributes:
    run: as we would run it.
    mfu: published.
    tokens_per_second: of a chip, published.
    step: our terms.
  """

  run: runs.Run
  mfu: float
  tokens_per_second: float
  step: roofline.StepTime

  @property
  def published_seconds(self) -> float:
    """Of a step of the run's size at the published rate."""
    return self.run.tokens / self.run.num_chips / self.tokens_per_second

  @property
  def ratio(self) -> float:
    """Published step time over our estimate."""
    return self.published_seconds / self.step.estimate


@functools.cache
def comparisons() -> tuple[Comparison, ...]:
  """One for each row of the table."""
  lines = _TABLE.read_text(encoding="utf-8").splitlines()
  found = []
  for row in csv.DictReader(lines, delimiter="\t"):
    num_chips = chips.num_chips(row["topology"])
    run = runs.Run(
      name=f"{row['model']}, {num_chips} {row['chip']}",
      model=_config(row),
      topology=row["topology"],
      num_slices=1,
      mesh={"fsdp": num_chips},
      batch_size=int(row["rows_per_chip"]) * num_chips,
      sequence_length=int(row["sequence_length"]),
      num_microbatches=1,
    )
    found.append(
      Comparison(
        run=run,
        mfu=float(row["mfu"]),
        tokens_per_second=float(row["tokens_per_second_per_chip"]),
        step=roofline.of_run(run),
      )
    )
  return tuple(found)


def _config(row: dict[str, str]) -> decoder.DecoderConfig:
  experts = None
  if row["num_experts"]:
    experts = moe.MoEConfig(
      num_experts=int(row["num_experts"]),
      num_experts_per_token=int(row["num_experts_per_token"]),
      renormalize=True,
      capacity_factor=None,
      load_balancing_weight=0.0,
      router_z_weight=0.0,
    )
  sizes = ("num_layers", "d_model", "d_ff", "num_heads", "num_kv_heads")
  return decoder.DecoderConfig(
    **{name: int(row[name]) for name in (*sizes, "vocab_size")},
    head_dim=128,
    position_encoding="rotary_halves",
    rope_theta=10_000.0,
    rope_scaling=None,
    norm="rms",
    norm_epsilon=1e-5,
    mlp="swiglu",
    parallel_block=False,
    use_biases=False,
    normalize_embedding=False,
    tie_embeddings=False,
    logit_scale=1.0,
    activation_dtype="bfloat16",
    remat="full",
    moe=experts,
  )


def calibration(chip: str, is_mixture: bool) -> float:
  """Median published step time over our estimate, of one kind of chip.

  What the roofline leaves out: matrix units below their peak, what does not
  overlap, other settings than assumed. A chip without a published run gets the
  median of v5p, whose generation is nearest.
  """
  rows = comparisons()
  of_chip = [row for row in rows if row.run.chip.name == chip]
  if not of_chip:
    of_chip = [row for row in rows if row.run.chip.name == "v5p"]
  alike = [r for r in of_chip if (r.run.model.moe is not None) == is_mixture]
  return statistics.median(row.ratio for row in alike or of_chip)
