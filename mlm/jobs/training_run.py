"""What the training jobs share: their batches, and running the one loop."""

import logging
import os
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from mlm.checkpoints import manager
from mlm.data import indexed, sampling
from mlm.jobs import models
from mlm.languages import registry
from mlm.planning import chips
from mlm.training import ledger, loop, metrics, progress, step
from mlm.training import state as train_state
from mlm.training.optimizers import MakeOptimizer

MIXTURE_FILE = "mixture.json"  # what the data was planned to hold
CONFIG_FILE = "config.gin"  # of mlm.run
_AHEAD = 4  # batches kept ready by as many threads as help
_WORKERS = 2
_KEEP = 2  # the latest, and one before in case a disk fills while saving


def mixture_source(
  batch: Callable,
  *,
  num_steps: int,
  planned: Callable[[int, int], Mapping[str, float]],
  observe: Callable,
  unit: str,
  period: int,
) -> Callable:
  """Batches made ahead of the steps, with a warning when what they hold drifts.

  Args:
    batch: step -> host batch.
    num_steps: steps in all.
    planned: (first step, step after the last) -> name -> share.
    observe: as for `mlm.data.sampling.audited`.
    unit: as for `mlm.data.sampling.audited`.
    period: as for `mlm.data.sampling.audited`.

  Returns:
    state -> host batch, from the step of the first state on.
  """
  batches = None

  def batch_source(state):
    nonlocal batches
    if batches is None:
      start = int(state.step)
      batches = sampling.audited(
        indexed.prefetched(
          batch,
          start_step=start,
          num_steps=num_steps,
          ahead=_AHEAD,
          workers=_WORKERS,
        ),
        lambda number: planned(start, start + number),
        observe=observe,
        unit=unit,
        period=period,
        warn=logging.warning,
      )
    return next(batches)

  return batch_source


def _operative_config(output: str) -> str | None:
  """What the launcher wrote; only the first process need see it: it saves."""
  path = os.path.join(output, CONFIG_FILE)
  if not os.path.exists(path):
    return None
  with open(path, encoding="utf-8") as f:
    return f.read()


def throughput(flops_per_step: float) -> progress.Describe:
  """`mlm.training.progress.throughput` on the devices of this run."""
  devices = jax.devices()
  of_device = chips.device_flops(devices[0].device_kind)
  return progress.throughput(
    flops_per_step=flops_per_step,
    peak_flops_per_second=of_device and of_device * len(devices),
  )


def lines_before(output: str) -> list[dict]:
  """Lines of metrics of the steps that the last checkpoint of a run has made."""
  step = manager.latest_step(models.checkpoints_of(output))
  if step is None:
    return []
  lines = metrics.read(os.path.join(output, loop.METRICS_FILE))
  return [line for line in lines if line["step"] < step]


def run(
  *,
  output: str,
  part: models.Part,
  loss_fn: Callable,
  optimizer: MakeOptimizer,
  num_microbatches: int,
  mesh: Mesh,
  batch_source: Callable,
  num_steps: int,
  seed: int,
  checkpoint_period: int,
  log_period: int,
  metadata: dict,
  changing: dict | None = None,
  keep_period: int | None = None,
  place: Callable | None = None,
  describe: progress.Describe = progress.nothing,
) -> train_state.TrainState:
  """Restores or creates the state and runs `mlm.training.loop.train`.

  Args:
    output: directory for checkpoints and what `mlm.training.loop` writes.
    part: what is trained.
    loss_fn: (params, frozen, batch, key) -> (scalar, metrics).
    optimizer: of `mlm.training.optimizers`.
    num_microbatches: of `mlm.training.step.make_train_step`.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    batch_source: state -> host batch.
    num_steps: steps in all.
    seed: of the initial params and the steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
    metadata: what must not change over the life of the run, beside the part's.
    changing: of `mlm.checkpoints.manager.Checkpointer`; the operative
      configuration, if the launcher wrote one, is saved beside it.
    keep_period: of `mlm.checkpoints.manager.Checkpointer`.
    place: of `mlm.training.step`; None where the source gives whole batches.
    describe: of `mlm.training.progress`.
  """
  optimizer = optimizer(part.logical_axes)
  abstract = train_state.abstract(init=part.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, part.logical_axes, abstract)
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(output),
    keep=_KEEP,
    keep_period=keep_period,
    metadata={**metadata, **part.metadata},
    changing={**(changing or {}), "config": _operative_config(output)},
  )
  made = checkpointer.latest_step()
  if jax.process_index() == 0 and made != num_steps:
    ledger.append(output, "begin")
  try:
    if made is not None:
      print(f"Resuming from step {made} of {num_steps}")
      state = checkpointer.restore(
        train_state.with_shardings(abstract, shardings)
      )
    elif part.params is not None:
      state = train_state.from_params(
        params=part.params, optimizer=optimizer, shardings=shardings
      )
    else:
      state = train_state.create(
        init=part.init,
        optimizer=optimizer,
        key=jax.random.key(seed),
        shardings=shardings,
      )
    return loop.train(
      state=state,
      batch_source=batch_source,
      place=place or step.make_place(mesh),
      step_fn=step.make_train_step(
        loss_fn=loss_fn,
        optimizer=optimizer,
        num_microbatches=num_microbatches,
        mesh=mesh,
        state_shardings=shardings,
      ),
      frozen=part.frozen,
      num_steps=num_steps,
      seed=seed,
      checkpointer=checkpointer,
      checkpoint_period=checkpoint_period,
      log_period=log_period,
      output=output,
      language_codes=registry.codes(),
      describe=describe,
    )
  finally:
    checkpointer.close()
