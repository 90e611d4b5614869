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

from mlm.training import metrics as metrics_lib
from mlm.training.state import TrainState

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


def _check_finite(window: Sequence[dict], last_step: int) -> None:
  """Raises FloatingPointError at the first step whose loss or gradient is not.

  Args:
    window: host metrics of consecutive steps.
    last_step: step of the last of them.
  """
  first_step = last_step - len(window) + 1
  for step, step_metrics in enumerate(window, start=first_step):
    values = {
      name: [float(x) for x in step_metrics[name]]
      for name in ("loss", "grad_norm")
    }
    for name, (numerator, denominator) in values.items():
      if denominator == 0 or not math.isfinite(numerator / denominator):
        raise FloatingPointError(
          f"{name} of step {step} is not finite ({numerator} over a weight of "
          f"{denominator}); nothing was saved since. If the weight is 0 the "
          "batch has no token to learn from; else lower the learning rate, "
          "lengthen the warm-up or clip harder, and start again: the run "
          "resumes from its last checkpoint"
        )


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
  metrics_path: str | os.PathLike,
  language_codes: Sequence[str],
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
    metrics_path: the file of lines: {"step", ...} where step counts from 0 and
      is the last that the line covers, seconds is their duration and
      data_seconds the part of it spent waiting for batches.
    language_codes: code of each position of the per-language metrics.

  Returns:
    The state after num_steps steps.

  Raises:
    ValueError: if a period or num_steps does not fit.
    FloatingPointError: if a loss or gradient is not finite; found when its
      window is logged, and before anything is saved after it.
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
  is_primary = jax.process_index() == 0
  if is_primary:
    metrics_lib.drop_from(metrics_path, start)

  progress = tqdm.tqdm(
    total=num_steps, initial=start, unit="step", disable=not is_primary
  )
  since = time.perf_counter()

  data_seconds = 0.0

  def next_batch(step: int) -> dict[str, jax.Array]:
    nonlocal data_seconds
    asked = time.perf_counter()
    batch = batch_source(dataclasses.replace(state, step=np.int32(step)))
    data_seconds += time.perf_counter() - asked
    return place(batch)

  def log(window: Sequence[dict], last_step: int) -> None:
    nonlocal since, data_seconds
    window = jax.device_get(window)
    _check_finite(window, last_step)
    now = time.perf_counter()
    seconds, since = now - since, now
    record = {
      "step": last_step,
      **metrics_lib.summarize(window, language_codes=language_codes),
      "seconds": seconds,
      "data_seconds": data_seconds,
    }
    data_seconds = 0.0
    if is_primary:
      metrics_lib.append(metrics_path, record)
    shown = {"loss": f"{record['loss']:.3f}"}
    if "tokens" in record:
      shown["tokens/s"] = f"{record['tokens'] / seconds:,.0f}"
    progress.set_postfix(shown, refresh=False)
    progress.update(len(window))

  window, pending = [], None
  with _termination() as is_terminated, progress:
    try:
      for step in range(start, num_steps):
        batch = next_batch(step)
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
      checkpointer.wait()
  return state
