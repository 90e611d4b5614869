"""Batches as a function of (seed, step), from cached tokens.

Draw -> task and number (`schedule`) -> epoch and row of the task, in an order
of its own each epoch -> window of its tokens (`token_stream`) -> features
(`objectives`). Nothing is iterated: any step replays on any number of hosts,
after a restart, and beyond a change of the rates.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mlm.data import objectives, task_names, token_stream
from mlm.data import schedule as schedule_lib
from mlm.languages import registry
from mlm.tokenizers import special

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
  seed: int,
  places: Sequence[int],
) -> BatchFn:
  """Builds step -> some rows of the batch.

  Rows hold one language each. A row is a function of the seed, the step and
  its place in the batch: a host makes those that its devices need.

  Args:
    streams: task -> its tokens, for every task of the schedule.
    schedule: of the draws of all rows.
    objective: of the rows.
    seed: of the order of rows and of the objective's noise.
    places: of the rows to make, in [0, the schedule's batch size).

  Returns:
    step -> {feature: array [number of places, its length]}, with
    "decoder_language_ids" (registry index; 0 on padding) like
    "decoder_target_tokens".

  Raises:
    ValueError: if a place is not in the batch, or a stream is missing.
  """
  schedule.check_places(places)
  missing = sorted(set(schedule.tasks) - set(streams))
  if missing:
    raise ValueError(f"no tokens of {missing}; cache these tasks first")
  windows = {
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
    drawn = schedule.draws(step, places)
    for place, (task, number) in zip(places, drawn, strict=True):
      rng = np.random.default_rng((seed, step, place))
      row = objective.features(windows[task].window(number), rng)
      real = row["decoder_target_tokens"] != 0
      row["decoder_language_ids"] = np.where(real, language[task], 0).astype(
        np.int32
      )
      made.append(row)
    return {name: np.stack([row[name] for row in made]) for name in made[0]}

  return batch


_SHARE_DRAWS = 1000


def real_shares(
  window_tokens: Mapping[str, int], objective: objectives.Objective
) -> dict[str, dict[str, float]]:
  """Shares of the positions of rows that hold tokens and no padding.

  They depend on the length of a window, not on what is in it, and on what the
  objective draws: the means of 1,000 draws.

  Args:
    window_tokens: task or language -> tokens that its rows take at most, all
      that it has.
    objective: of the rows.

  Returns:
    "encoder_input_tokens", where there is an encoder, and
    "decoder_target_tokens" -> task or language -> share.
  """
  sizes = {
    name: min(objective.raw_length, tokens)
    for name, tokens in window_tokens.items()
  }
  means = {}
  for size in set(sizes.values()):
    window = np.full(size, special.UNK_ID, np.int32)
    rng, shares = np.random.default_rng(0), collections.defaultdict(float)
    for _ in range(_SHARE_DRAWS):
      row = objective.features(window, rng)
      for feature in ("encoder_input_tokens", "decoder_target_tokens"):
        if feature in row:
          shares[feature] += float(np.mean(row[feature] != 0)) / _SHARE_DRAWS
    means[size] = shares
  return {
    feature: {name: means[size][feature] for name, size in sizes.items()}
    for feature in next(iter(means.values()))
  }


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
