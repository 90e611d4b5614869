"""Sections of the plan about the run itself: model, memory, time, cost.

A section is {"title", "text", "figure", "columns", "rows"}, as the template of
reports has it. Every table says of each number, or of the whole table, which
kind it is: published, computed (arithmetic of this project), compiled (the TPU
compiler's), or assumed.
"""

from collections.abc import Mapping, Sequence

from mlm.models import counting
from mlm.planning import compiled as compiled_lib
from mlm.planning import costs, figures, memory, published, roofline, runs

GIB = 2**30


def matching(
  run: runs.Run, found: Sequence[compiled_lib.Compiled]
) -> compiled_lib.Compiled | None:
  """The compilation of exactly this run, or None."""
  sizes = {axis: n for axis, n in run.mesh.items() if n > 1}
  fields = compiled_lib.as_fields(run.model)
  for one in found:
    same_mesh = {axis: n for axis, n in one.mesh.items() if n > 1} == sizes
    shape = (one.topology, one.batch_size, one.sequence_length)
    shape += (one.num_microbatches,)
    if (
      same_mesh
      and one.model == fields
      and shape
      == (
        run.topology,
        run.batch_size,
        run.sequence_length,
        run.num_microbatches,
      )
    ):
      return one
  return None


def gib(num_bytes: float | None) -> str:
  return "–" if num_bytes is None else f"{num_bytes / GIB:,.2f}"


def where(run: runs.Run) -> str:
  """Chips and mesh of a run, in words."""
  slices = f"{run.num_slices} x " if run.num_slices > 1 else ""
  mesh = " x ".join(f"{a} {n}" for a, n in run.mesh.items() if n > 1)
  return f"{slices}{run.topology}, {mesh}"


def models(named: Mapping[str, runs.Run]) -> dict:
  """Parameters and FLOPs of the models that runs have."""
  rows = []
  seen = set()
  for run in named.values():
    config = run.model
    if (key := repr(config)) in seen:
      continue
    seen.add(key)
    length = run.sequence_length
    training = counting.training_flops_per_token(config, length)
    executed = counting.executed_flops_per_token(config, length)
    tables = 2 * config.vocab_size * config.d_model
    rows.append(
      [
        run.name,
        f"{counting.num_params(config):,}",
        f"{counting.num_active_params(config):,}",
        f"{tables / counting.num_params(config):.1%}",
        f"{training / 1e9:,.1f}",
        f"{executed / 1e9:,.1f}",
        f"{training / executed:.1%}",
        f"{12 * counting.num_params(config) / 1e12:.3f}",
      ]
    )
  return {
    "title": "Models",
    "text": "Computed, in closed form; a test holds the FLOPs to a walk of the "
    "traced step within 1 %. Executed counts what full rematerialisation, splash "
    "attention and the fused loss head run twice; model over executed is the "
    "largest MFU that any hardware could show.",
    "figure": "",
    "columns": [
      "first run with it",
      "parameters",
      "active in a token",
      "in the two tables of pieces",
      "training GFLOPs a token",
      "executed GFLOPs a token",
      "training / executed",
      "state, TB (12 bytes a parameter)",
    ],
    "rows": rows,
    "open": True,
  }


def fits(
  named: Sequence[runs.Run], found: Sequence[compiled_lib.Compiled]
) -> dict:
  """What every run needs of a device, predicted and compiled."""
  rows, parts, peaks, capacity, ratios = [], {}, {}, {}, []
  for run in named:
    predicted = memory.of_run(run)
    has = run.chip.hbm_bytes / run.chip.devices
    one = matching(run, found)
    parts[run.name] = _at_the_peak(predicted)
    capacity[run.name] = has / GIB
    peak, verdict, ratio = (
      "not compiled",
      _predicted_verdict(predicted, has),
      "–",
    )
    if one is not None:
      needed = one.peak_bytes or one.needed_bytes
      peaks[run.name] = needed and needed / GIB
      peak, verdict = gib(needed), _compiled_verdict(one)
      if one.peak_bytes:
        ratios.append(predicted.peak / one.peak_bytes)
        ratio = f"{ratios[-1]:.3f}"
    rows.append(
      [
        run.name,
        where(run),
        f"{run.batch_size:,} x {run.sequence_length:,}",
        gib(predicted.state),
        gib(predicted.peak),
        peak,
        ratio,
        gib(has),
        verdict,
      ]
    )
  within = sum(abs(ratio - 1) <= 0.1 for ratio in ratios)
  return {
    "title": "Memory of a device: fits, or short by",
    "text": "GiB. Predicted is computed, peak is compiled by libtpu for chips "
    "that nobody has here; of a refused program, what the compiler says it needs. "
    f"Of {len(ratios)} accepted programs {within} are predicted within 10 %. "
    "Logits take none: the fused head keeps none.",
    "figure": figures.stacked(
      parts,
      {"compiled peak": peaks, "memory of a device": capacity},
      xlabel="GiB a device",
      title=_largest_part(parts),
    ),
    "columns": [
      "run",
      "topology and mesh",
      "rows x tokens",
      "state (computed)",
      "peak predicted (computed)",
      "peak (compiled)",
      "predicted / compiled",
      "a device has (published)",
      "verdict",
    ],
    "rows": rows,
    "open": True,
  }


def _largest_part(parts: Mapping[str, Mapping[str, float]]) -> str:
  """What the first run's memory goes to, as a sentence."""
  run, of = next(iter(parts.items()))
  name = max(of, key=of.__getitem__)
  meant = {
    "kept": "inputs kept of each layer",
    "working": "one layer's backward pass",
    "tables": "gradients of the tables of pieces",
  }
  total = sum(of.values())
  return (
    f"{run}: {of[name] / total:.0%} of {total:.1f} GiB are "
    f"{meant.get(name, name)}"
  )


def _at_the_peak(predicted: memory.Memory) -> dict[str, float]:
  """GiB of what is alive at the peak; 0 of what is not."""
  is_layers = predicted.layers >= predicted.tables
  alive = {
    "state": True,
    "gradients": True,
    "head": is_layers,
    "kept": is_layers,
    "working": is_layers,
    "tables": not is_layers,
  }
  return {
    name: getattr(predicted, name) / GIB if is_alive else 0.0
    for name, is_alive in alive.items()
  }


def _predicted_verdict(predicted: memory.Memory, has: float) -> str:
  if predicted.peak <= has:
    return "fits by prediction"
  return f"short by {gib(predicted.peak - has)} by prediction"


def _compiled_verdict(one: compiled_lib.Compiled) -> str:
  if one.is_accepted:
    return "fits"
  if one.needed_bytes is None:
    return "refused"
  return f"refused, short by {gib(one.needed_bytes - one.available_bytes)}"


def compilations(found: Sequence[compiled_lib.Compiled]) -> dict:
  """How each compilation went and the bytes its collectives carry."""
  rows = []
  for one in found:
    sent = {kind: 0.0 for kind in ("all-gather", "reduce-scatter", "other")}
    for row in one.collectives:
      kind = row["kind"] if row["kind"] in sent else "other"
      sent[kind] += row["moved_bytes"] / 1e9
    rows.append(
      [
        one.name,
        f"{one.topology}, {one.num_devices:,}",
        *(gib(n) for n in (one.arguments_bytes, one.temporaries_bytes)),
        gib(one.peak_bytes),
        f"{one.seconds['trace_and_lower'] + one.seconds['compile']:.0f}",
        f"{one.seconds['processor']:.0f}",
        f"{one.host_peak_bytes / 1e9:.2f}",
        *(f"{n:,.0f}" if one.is_accepted else "–" for n in sent.values()),
      ]
    )
  return {
    "title": "Compilations",
    "text": "The real train step, compiled on a CPU host with other work on it; "
    "memory in GiB a device, collectives in GB that one device sends a step, loops "
    "multiplied. Temporaries are XLA's count, which exceeds what is alive at once.",
    "figure": "",
    "columns": [
      "run",
      "topology, devices",
      "arguments",
      "temporaries",
      "peak",
      "seconds",
      "CPU seconds",
      "host GB",
      "all-gather GB",
      "reduce-scatter GB",
      "permutes and others GB",
    ],
    "rows": rows or [["not compiled"] + ["–"] * 10],
  }


def step_times(named: Sequence[runs.Run]) -> dict:
  """The roofline of every run, term by term."""
  rows, parts, floors = [], {}, {}
  for run in named:
    step = roofline.of_run(run)
    parts[run.name] = {
      "compute": step.compute,
      "tensor collectives": step.tensor,
      "expert collectives": step.expert,
    }
    floors[run.name] = step.floor
    factor = published.calibration(
      run.chip.name, is_mixture=run.model.moe is not None
    )
    rows.append(
      [
        run.name,
        *(
          f"{getattr(step, term):.2f}"
          for term in ("compute", "hbm", "fsdp", "tensor", "expert", "dcn")
        ),
        f"{step.floor:.2f}",
        f"{step.estimate:.2f}",
        f"{roofline.model_flops_utilization(run, step.estimate):.1%}",
        f"{factor:.2f}",
        f"{step.estimate * factor:.2f}",
        f"{roofline.model_flops_utilization(run, step.estimate * factor):.1%}",
      ]
    )
  return {
    "title": "Time of a step",
    "text": "Seconds, computed: each term is the least time of one resource. The "
    "floor is their largest, the estimate adds collectives over tensor and "
    "expert, which products wait for. Calibrated is the estimate times the median "
    "of published over computed step times on that kind of chip (next table).",
    "figure": figures.stacked(
      parts,
      {"floor": floors},
      xlabel="seconds a step, all devices at their peak",
      title="Collectives over tensor and expert come on top of the products",
    ),
    "columns": [
      "run",
      "compute",
      "HBM",
      "ICI fsdp",
      "ICI tensor",
      "ICI expert",
      "DCN",
      "floor",
      "estimate",
      "MFU of it",
      "published / computed",
      "calibrated",
      "MFU of that",
    ],
    "rows": rows,
    "open": True,
  }


def against_published() -> dict:
  """Published step times of the same shapes over ours."""
  rows = [
    [
      one.run.name,
      f"{one.run.sequence_length:,}",
      f"{one.tokens_per_second:,.0f}",
      f"{one.published_seconds:.2f}",
      f"{one.step.estimate:.2f}",
      f"{one.ratio:.2f}",
      f"{one.mfu:.1%}",
      f"{roofline.model_flops_utilization(one.run, one.published_seconds):.1%}",
      f"{roofline.model_flops_utilization(one.run, one.step.estimate):.1%}",
    ]
    for one in published.comparisons()
  ]
  return {
    "title": "Against published MaxText runs",
    "text": "Tokens/s and MFU are published; seconds follow from assumed rows a "
    "chip (published_throughput.tsv), all chips on fsdp; ours are computed. "
    "Published steps are longer because the roofline has matrix units at their "
    "peak and full overlap with fsdp; our rows recompute fully, which "
    "published ones may not. The gap is smallest on v5p and largest on v6e, whose "
    "peak is twice v5p's at 0.6 of its bandwidth. MFU from tokens/s is below "
    "the published one, most for long rows, as where the older convention "
    "counts the whole square of attention.",
    "figure": "",
    "columns": [
      "run",
      "tokens a row",
      "tokens/s/chip (published)",
      "step s from it",
      "step s (computed)",
      "published / computed",
      "MFU (published)",
      "MFU from tokens/s",
      "MFU (computed)",
    ],
    "rows": rows,
  }


def cost_table(
  named: Sequence[runs.Run],
  budgets: Sequence[float],
  given: costs.Assumptions,
) -> dict:
  """Days and dollars of token budgets at the assumed MFU and calibrated."""
  rows = []
  for run in named:
    calibrated = roofline.of_run(run).estimate * published.calibration(
      run.chip.name, is_mixture=run.model.moe is not None
    )
    for budget in budgets:
      for basis, seconds in (
        (f"MFU {given.mfu:.0%} (assumed)", costs.seconds_at(run, given.mfu)),
        ("calibrated roofline (computed)", calibrated),
      ):
        cost = costs.of_budget(run, budget, seconds, given)
        rows.append(
          [
            run.name,
            f"{budget / 1e12:.2f}",
            basis,
            f"{cost.step_seconds:.1f}",
            f"{cost.steps:,}",
            f"{cost.tokens_per_second / 1e6:.2f}",
            f"{cost.days:,.0f}",
            f"{cost.chip_hours / 1e6:,.2f}",
            f"{cost.dollars / 1e6:,.1f}",
          ]
        )
  prices = ", ".join(f"{c} {p:g} $" for c, p in given.prices.items())
  return {
    "title": "Days and cost",
    "text": f"Prices a chip hour are assumed, {given.dated}: {prices}. Goodput "
    f"{given.goodput:.0%} is assumed. Days and dollars are computed from them.",
    "figure": "",
    "columns": [
      "run",
      "tokens, T",
      "step time by",
      "seconds a step",
      "steps",
      "M tokens/s",
      "days",
      "M chip hours",
      "M $",
    ],
    "rows": rows,
    "open": True,
  }


def storage_table(
  named: Sequence[runs.Run], budget: float, given: costs.Assumptions
) -> dict:
  """Checkpoints, host memory and data rates."""
  rows = []
  for run in named:
    seconds = costs.seconds_at(run, given.mfu)
    needs = costs.storage(run, budget, seconds, given)
    rows.append(
      [
        run.name,
        f"{needs.num_hosts:,}",
        f"{needs.checkpoint_bytes / 1e12:.2f}",
        f"{needs.save_seconds:.0f}",
        f"{needs.host_bytes / 1e9:.1f}",
        f"{needs.cached_tokens_bytes / 1e12:.1f}",
        f"{needs.text_bytes / 1e12:.1f}",
        f"{needs.read_bandwidth / 1e6:.1f}",
      ]
    )
  return {
    "title": "Checkpoints, hosts and data",
    "text": f"Computed, for {budget / 1e12:.2f} T tokens at MFU {given.mfu:.0%}; "
    f"assumed: {given.host_write_bandwidth / 1e9:g} GB/s from a host to its store, "
    f"{given.text_bytes_per_token:g} bytes of text a token. Host memory is the least "
    "of it: its part of a checkpoint, copied to be saved in the background, and "
    "four batches ahead.",
    "figure": "",
    "columns": [
      "run",
      "hosts",
      "checkpoint, TB",
      "save, s",
      "host memory, GB",
      "cached tokens, TB",
      "text, TB",
      "tokens read, MB/s",
    ],
    "rows": rows,
  }
