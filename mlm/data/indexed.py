"""Batches as a function of (seed, step), from cached tokens.

Draw -> task and number (`schedule`) -> epoch and row of the task, in an order
of its own each epoch -> window of its tokens (`token_stream`) -> features
(`objectives`). Nothing is iterated: any step replays on any number of hosts,
after a restart, and beyond a change of the rates.
"""

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mlm.data import objectives, task_names, token_stream
from mlm.data import schedule as schedule_lib
from mlm.languages import registry

BatchFn = Callable[[int], dict[str, np.ndarray]]


class _Rows:
  """The rows of a task: windows of its tokens, in another order each epoch."""

  def __init__(self, stream: token_stream.TokenStream, length: int, key: int):
    self._stream, self._key = stream, key
    self._size = min(length, stream.num_tokens)
    self._rows_an_epoch = stream.num_tokens // self._size

  def window(self, number: int) -> np.ndarray:
    """The tokens of the task's draw of a number."""
    epoch, row = divmod(number, self._rows_an_epoch)
    key = schedule_lib.mix(self._key, epoch)
    row = schedule_lib.permuted(row, self._rows_an_epoch, key)
    # Where windows begin moves, so that what an epoch leaves out moves too.
    offset = schedule_lib.mix(key, 1) % self._stream.num_tokens
    start = (offset + row * self._size) % self._stream.num_tokens
    return self._stream.read(start, self._size)


def batch_function(
  *,
  streams: Mapping[str, token_stream.TokenStream],
  schedule: schedule_lib.Schedule,
  objective: objectives.Objective,
  batch_size: int,
  seed: int,
  host: int,
  num_hosts: int,
) -> BatchFn:
  """Builds step -> this host's rows of the batch.

  Rows hold one language each. Of `num_hosts` hosts, host h has rows
  h·B/hosts to (h + 1)·B/hosts: together they are the batch of a single host.

  Args:
    streams: task -> its tokens, for every task of the schedule.
    schedule: over batches of `batch_size` draws.
    objective: of the rows.
    batch_size: B, over all hosts.
    seed: of the order of rows and of the objective's noise.
    host: this one, in [0, num_hosts).
    num_hosts: divides batch_size.

  Returns:
    step -> {feature: array [B / hosts, its length]}, with
    "decoder_language_ids" (registry index; 0 on padding) like
    "decoder_target_tokens".

  Raises:
    ValueError: if the hosts do not divide the batch, or a stream is missing.
  """
  if not 0 <= host < num_hosts or batch_size % num_hosts:
    raise ValueError(
      f"host {host} of {num_hosts} and a batch of {batch_size}: the number of "
      "hosts must divide the batch, and hosts count from 0"
    )
  missing = sorted(set(schedule.tasks) - set(streams))
  if missing:
    raise ValueError(f"no tokens of {missing}; cache these tasks first")
  share = batch_size // num_hosts
  rows = {
    task: _Rows(
      streams[task],
      objective.raw_length,
      schedule_lib.mix(seed, *task.encode()),
    )
    for task in schedule.tasks
  }
  language = {
    task: registry.index(task_names.task_language(task))
    for task in schedule.tasks
  }

  def batch(step: int) -> dict[str, np.ndarray]:
    made = []
    drawn = schedule.draws(step, host * share, (host + 1) * share)
    for place, (task, number) in enumerate(drawn, start=host * share):
      rng = np.random.default_rng((seed, step, place))
      row = objective.features(rows[task].window(number), rng)
      real = row["decoder_target_tokens"] != 0
      row["decoder_language_ids"] = np.where(real, language[task], 0).astype(
        np.int32
      )
      made.append(row)
    return {name: np.stack([row[name] for row in made]) for name in made[0]}

  return batch


def prefetched(
  batch: BatchFn, *, start_step: int, num_steps: int, ahead: int, workers: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of steps in order, made ahead of need by threads.

  Args:
    batch: of `batch_function`.
    start_step: first step.
    num_steps: step after the last.
    ahead: batches kept ready.
    workers: threads.
  """
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    steps = iter(range(start_step, num_steps))
    waiting = []
    for step in steps:
      waiting.append(pool.submit(batch, step))
      if len(waiting) > ahead:
        yield waiting.pop(0).result()
    for future in waiting:
      yield future.result()
