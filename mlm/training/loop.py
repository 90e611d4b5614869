"""The one training loop: pretraining, fine-tuning, reward models, DPO, RLOO.

For each step: ask the source for a batch, place it, dispatch the update. The
update runs while the host prepares the next batch, so an offline source costs
nothing as long as it is faster than the device. The host waits for the device
only to log and to save, and it logs a window of steps once the step after it
is under way.
"""

import contextlib
import dataclasses
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from mlm.training import ledger, tensorboard
from mlm.training import metrics as metrics_lib
from mlm.training import progress as progress_lib
from mlm.training.state import TrainState

METRICS_FILE = "metrics.jsonl"
TERMINATED = 128 + signal.SIGTERM  # what a shell reports of a killed process


@contextlib.contextmanager
def _termination() -> Iterator[Callable[[int], bool]]:
  """Yields step -> whether to stop after it, because of SIGTERM.

  With several hosts all must stop at the same step, and a signal reaches them
  at different times or only one of them; JAX's preemption service agrees on
  the step. Outside the main thread no signal can be caught.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return
  terminated = threading.Event()
  previous = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
  try:
    yield lambda step: terminated.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)


def _first_not_finite(
  window: Sequence[dict], last_step: int
) -> tuple[int, str] | None:
  """The first step whose loss or gradient is not finite, and what of it.

  Args:
    window: host metrics of consecutive steps.
    last_step: step of the last of them.
  """
  first_step = last_step - len(window) + 1
  for step, step_metrics in enumerate(window, start=first_step):
    for name in ("loss", "grad_norm"):
      numerator, denominator = (float(x) for x in step_metrics[name])
      if denominator == 0 or not math.isfinite(numerator / denominator):
        return step, f"{name} ({numerator} over a weight of {denominator})"
  return None


def _dump(
  output: str | os.PathLike,
  step: int,
  window: Sequence[dict],
  last_step: int,
  batch: dict[str, np.ndarray],
  language_codes: Sequence[str],
) -> str:
  """Keeps what a step that went wrong saw: its batch, and steps around it."""
  folder = os.path.join(output, f"stopped_at_{step}")
  os.makedirs(folder, exist_ok=True)
  process = jax.process_index()
  np.savez(os.path.join(folder, f"batch_{process}.npz"), **batch)
  if process == 0:
    path = os.path.join(folder, METRICS_FILE)
    first_step = last_step - len(window) + 1
    for number, step_metrics in enumerate(window, start=first_step):
      summary = metrics_lib.summarize(
        [step_metrics], language_codes=language_codes
      )
      metrics_lib.append(path, {"step": number, **summary})
  return folder


def train(
  *,
  state: TrainState,
  batch_source: Callable[[TrainState], dict[str, np.ndarray]],
  place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
  step_fn: Callable,
  frozen: Any,
  num_steps: int,
  seed: int,
  checkpointer: Any,
  checkpoint_period: int,
  log_period: int,
  output: str | os.PathLike,
  language_codes: Sequence[str],
  describe: progress_lib.Describe,
) -> TrainState:
  """Trains from `state.step` to `num_steps`, logging and saving on the way.

  A run that was killed and started again from its last checkpoint gives the
  same params and the same lines as one that was not, as long as the batch of
  a step depends on the state and the seed alone.

  Args:
    state: initial or restored state. It is donated to the first step.
    batch_source: state -> host batch. The state's step is a host integer, so
      reading it does not wait for the device; reading its params does.
    place: host batch -> device batch, of `mlm.training.step.make_place`.
    step_fn: of `mlm.training.step.make_train_step`.
    frozen: pytree that the loss reads and does not train.
    num_steps: steps in all, those before a resumption included.
    seed: of the random keys of the steps.
    checkpointer: `mlm.checkpoints.manager.Checkpointer`, or what has its
      save(step, state) and wait().
    checkpoint_period: steps between checkpoints, a multiple of log_period;
      there is always one at the end.
    log_period: steps a line of metrics covers.
    output: directory for metrics.jsonl, the same for TensorBoard, and
      `mlm.training.ledger`. The lines are {"step", ...} where step counts from
      0 and is the last that the line covers, seconds is their duration;
      data_seconds, compile_seconds and checkpoint_seconds are the parts of it
      spent waiting for batches, in the first call of the step, and blocked by
      saving.
    language_codes: code of each position of the per-language metrics.
    describe: of `mlm.training.progress`: what to add to a line.

  Returns:
    The state after num_steps steps.

  Raises:
    ValueError: if a period or num_steps does not fit.
    FloatingPointError: if a loss or gradient is not finite; found when its
      window is logged, and before anything is saved after it. The batch and
      the window's metrics by step are in output/stopped_at_<step>.
    SystemExit: after SIGTERM, once the state is saved.
  """
  if log_period < 1 or checkpoint_period < 1 or checkpoint_period % log_period:
    raise ValueError(
      f"checkpoint_period {checkpoint_period} must be a multiple of log_period "
      f"{log_period}, both at least 1, so that resuming cuts no line in two"
    )
  start = int(state.step)
  if start > num_steps:
    raise ValueError(
      f"the checkpoint is at step {start}, beyond num_steps {num_steps}; "
      "raise num_steps or choose another output directory"
    )
  if start == num_steps:
    return state
  is_primary = jax.process_index() == 0
  metrics_path = os.path.join(output, METRICS_FILE)
  if is_primary:
    metrics_lib.drop_from(metrics_path, start)
    ledger.append(output, "ready", step=start)
    write_tensorboard = tensorboard.make_writer(output, start)

  progress = tqdm.tqdm(
    total=num_steps, initial=start, unit="step", disable=not is_primary
  )
  since = time.perf_counter()

  spent = dict.fromkeys(ledger.PARTS, 0.0)
  batches = {}  # by step, of the steps whose metrics have not been looked at

  @contextlib.contextmanager
  def timed(part: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
      yield
    finally:
      spent[part] += time.perf_counter() - began

  def next_batch(step: int) -> dict[str, jax.Array]:
    with timed("data"):
      batch = batch_source(dataclasses.replace(state, step=np.int32(step)))
    batches[step] = batch
    return place(batch)

  def log(window: Sequence[dict], last_step: int) -> None:
    nonlocal since
    window = jax.device_get(window)
    wrong = _first_not_finite(window, last_step)
    if wrong is not None:
      step, what = wrong
      folder = _dump(
        output, step, window, last_step, batches[step], language_codes
      )
      raise FloatingPointError(
        f"{what} of step {step} is not finite; nothing was saved since, its "
        f"batch is in {folder}. If the weight is 0 the batch has no token to "
        "learn from; else lower the learning rate, lengthen the warm-up or clip "
        "harder, and start again: the run resumes from its last checkpoint"
      )
    for step in [step for step in batches if step <= last_step]:
      del batches[step]
    now = time.perf_counter()
    seconds, since = now - since, now
    parts = {f"{part}_seconds": spent[part] for part in spent}
    spent.update(dict.fromkeys(spent, 0.0))
    record = {
      "step": last_step,
      **metrics_lib.summarize(window, language_codes=language_codes),
      "seconds": seconds,
      **parts,
    }
    record |= describe(record, len(window))
    if is_primary:
      metrics_lib.append(metrics_path, record)
      write_tensorboard(record)
      ledger.append(output, "window", step=last_step, seconds=seconds, **parts)
    shown = {"loss": f"{record['loss']:.3f}"}
    for name, short in (("tokens_per_second", "tokens/s"), ("mfu", "mfu")):
      if name in record:
        shown[short] = f"{record[name]:,.3g}"
    progress.set_postfix(shown, refresh=False)
    progress.update(len(window))

  window, pending = [], None
  with _termination() as is_terminated, progress:
    try:
      for step in range(start, num_steps):
        batch = next_batch(step)
        with timed("compile") if step == start else contextlib.nullcontext():
          state, step_metrics = step_fn(state, frozen, batch, np.int32(seed))
        window.append(step_metrics)
        if pending:
          log(*pending)
          pending = None
        done = step + 1
        terminated = is_terminated(done)
        saves = terminated or done == num_steps or not done % checkpoint_period
        if saves:
          log(window, step)
          window = []
          with timed("checkpoint"):
            checkpointer.save(done, state)
        elif done % log_period == 0:
          window, pending = [], (window, step)
        if terminated and done < num_steps:
          progress.write(f"SIGTERM: saved step {done} of {num_steps}")
          raise SystemExit(TERMINATED)
    except jax.errors.JaxRuntimeError:
      if jax.process_count() > 1:
        # At once: the others may end this process while it still waits.
        logging.exception(
          "a computation that %d processes share failed; if one of them is lost, "
          "start all again: the run goes on from its last checkpoint",
          jax.process_count(),
        )
      raise
    finally:
      with timed("checkpoint"):
        checkpointer.wait()
      if is_primary:
        ledger.append(output, "end", checkpoint_seconds=spent["checkpoint"])
        found = ledger.summarize(ledger.read(output))
        progress.write(ledger.format_summary(found))
  return state
