"""Rows of whole examples, known from the lengths of the examples alone.

Each epoch a task's examples are permuted and laid into rows in that order: a
row is closed when the next example does not fit it (next-fit). So an epoch
holds every example once, and a row of it is a function of (seed, epoch, row).

Letters: N examples, S sides of a row (encoder, decoder), T tokens.
"""

import bisect
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlm.data import example_store, indexed
from mlm.data import schedule as schedule_lib
from mlm.languages import registry

TOO_LONG = ("refuse", "truncate")
_MEASURED_ROWS = 2_000

Lengths = Mapping[str, np.ndarray]  # feature -> tokens of each example, [N]


@dataclasses.dataclass(frozen=True)
class Layout:
  """How examples lie in a row.

  Attributes:
    limits: tokens of each side of a row.
    sides: lengths -> tokens an example takes of each side, [S, N].
    cut: lengths -> the lengths that fit a row alone; what fits is not cut.
    features: (examples, in order) -> {name: array [its length]}; int32 but the
      loss weights, float32.
  """

  limits: tuple[int, ...]
  sides: Callable[[Lengths], np.ndarray]
  cut: Callable[[Lengths], Lengths]
  features: Callable[
    [Sequence[Mapping[str, np.ndarray]]], dict[str, np.ndarray]
  ]


def next_fit(sizes: np.ndarray, limits: Sequence[int]) -> np.ndarray:
  """Where rows begin when examples are laid into them one after the other.

  Args:
    sizes: tokens that examples take of each side, [S, N], none above its limit.
    limits: tokens of each side of a row.

  Returns:
    int64 [rows + 1]: row r has examples starts[r] to starts[r + 1].
  """
  num = sizes.shape[1]
  # following[i]: where the row after the one that begins with example i begins.
  following = np.full(num + 1, num)
  for side, limit in zip(sizes, limits):
    ends = np.concatenate([[0], np.cumsum(side, dtype=np.int64)])
    reach = np.searchsorted(ends, ends + limit, side="right") - 1
    following = np.minimum(following, reach)
  # Once it holds the first 2^k starts, jumps of 2^k rows give as many more.
  starts = np.zeros(1, np.int64)
  while starts[-1] < num:
    starts = np.concatenate([starts, following[starts]])
    following = following[following]
  return starts[: np.searchsorted(starts, num) + 1]


def _cut(tokens: np.ndarray, size: int) -> np.ndarray:
  """The first tokens and the last, which is EOS or the end of a turn."""
  if len(tokens) <= size:
    return tokens
  return np.concatenate([tokens[: size - 1], tokens[-1:]])


def _padded(parts: Sequence[np.ndarray], length: int, dtype) -> np.ndarray:
  result = np.zeros(length, dtype)
  values = np.concatenate(parts)
  result[: len(values)] = values
  return result


def _side(sequences: Sequence[np.ndarray], length: int, prefix: str) -> dict:
  """Tokens of a side with their segment ids and positions."""
  sizes = [len(tokens) for tokens in sequences]
  ids = np.repeat(np.arange(1, len(sizes) + 1), sizes)
  places = [np.arange(size) for size in sizes]
  return {
    f"{prefix}_tokens": _padded(sequences, length, np.int32),
    f"{prefix.split('_')[0]}_segment_ids": _padded([ids], length, np.int32),
    f"{prefix.split('_')[0]}_positions": _padded(places, length, np.int32),
  }


def _shifted(tokens: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], tokens[:-1]])


def encoder_decoder(*, inputs_length: int, targets_length: int) -> Layout:
  """Inputs in the encoder, targets in the decoder, both packed together.

  Example k of a row is segment k of both sides, under t5x's names. What is too
  long keeps its start and its last token.

  Args:
    inputs_length: tokens of the encoder's side.
    targets_length: tokens of the decoder's side.
  """
  limits = {"inputs": inputs_length, "targets": targets_length}
  if min(limits.values()) < 1:
    raise ValueError(f"lengths {limits} must be at least 1")

  def features(examples):
    targets = [example["targets"] for example in examples]
    row = {
      **_side([e["inputs"] for e in examples], inputs_length, "encoder_input"),
      **_side(targets, targets_length, "decoder_target"),
    }
    row["decoder_input_tokens"] = _padded(
      [_shifted(tokens) for tokens in targets], targets_length, np.int32
    )
    real = row["decoder_segment_ids"] > 0
    return {**row, "decoder_loss_weights": real.astype(np.float32)}

  return Layout(
    limits=tuple(limits.values()),
    sides=lambda lengths: np.stack([lengths[name] for name in limits]),
    cut=lambda lengths: {
      name: np.minimum(lengths[name], limit) for name, limit in limits.items()
    },
    features=features,
  )


def prefix(*, length: int) -> Layout:
  """Inputs and targets as one sequence of a decoder, loss on the targets.

  Like seqio's converter: the first input of a segment is 0, the first target
  its first token. Of what is too long, the targets keep what the inputs leave
  them or half of the row, the inputs the rest; each its start and last token.
  """
  return _decoder(length, left_out=0)


def response(*, length: int) -> Layout:
  """`prefix` as `prompts.response_batch` has it: no 0 before a prompt.

  The first input of a segment is the first token of its prompt, as it is when
  a response is sampled. A prompt has a token at least.
  """
  return _decoder(length, left_out=1)


def _decoder(length: int, *, left_out: int) -> Layout:
  """Both decoder layouts; `left_out` columns at a segment's start are not there."""
  room = length + left_out
  if length < 2:
    raise ValueError(f"length {length} leaves no room for inputs and targets")

  def cut(lengths):
    inputs, targets = lengths["inputs"], lengths["targets"]
    if inputs.min() < left_out:
      raise ValueError(
        f"example {int(inputs.argmin())} has no inputs, so that its first target "
        "cannot be learnt; use the layout prefix, or give it a prompt"
      )
    targets = np.minimum(targets, np.maximum(room - inputs, room // 2))
    return {"inputs": np.minimum(inputs, room - targets), "targets": targets}

  def features(examples):
    texts, inputs, weights = [], [], []
    for example in examples:
      text = np.concatenate([example["inputs"], example["targets"]])
      texts.append(text[left_out:])
      inputs.append(_shifted(text)[left_out:])
      weights.append(
        (np.arange(len(text)) >= len(example["inputs"]))[left_out:]
      )
    return {
      **_side(texts, length, "decoder_target"),
      "decoder_input_tokens": _padded(inputs, length, np.int32),
      "decoder_loss_weights": _padded(weights, length, np.float32),
    }

  return Layout(
    limits=(length,),
    sides=lambda of: (of["inputs"] + of["targets"] - left_out)[None],
    cut=cut,
    features=features,
  )


class PackedRows:
  """The rows of a task: row after row, epoch after epoch.

  Attributes:
    store: of the task.
    num_too_long: examples that are truncated.
  """

  def __init__(
    self,
    store: example_store.ExampleStore,
    layout: Layout,
    *,
    too_long: str,
    seed: int,
  ):
    """Args:
      store: of the task.
      layout: of the rows.
      too_long: what becomes of examples that no row can hold: "refuse" the
        task, or "truncate" them.
      seed: of the order; with it the task's name.

    Raises:
      ValueError: if an example is too long and refused, or the features are
        not those of the layout.
    """
    if too_long not in TOO_LONG:
      raise ValueError(f"too_long {too_long!r}: choose {TOO_LONG}")
    missing = {"inputs", "targets"} - store.lengths.keys()
    if missing:
      raise ValueError(f"task {store.task} has no feature {sorted(missing)}")
    self.store, self._layout = store, layout
    self._key = schedule_lib.mix(seed, *store.task.encode())
    lengths = layout.cut(store.lengths)
    longer = np.any(
      [lengths[name] < store.lengths[name] for name in lengths], axis=0
    )
    self.num_too_long = int(longer.sum())
    if self.num_too_long and too_long == "refuse":
      longest = layout.sides(store.lengths).max(axis=1).tolist()
      raise ValueError(
        f"{self.num_too_long:,} of {store.num_examples:,} examples of task "
        f"{store.task} are longer than a row of {layout.limits} tokens, the "
        f"longest {longest}; make rows longer, or set too_long to 'truncate'"
      )
    self._lengths, self._sizes = lengths, layout.sides(lengths)
    self._epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)
    self._firsts = [0]  # number of the first row of each epoch
    self._lock = threading.Lock()

  def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of an epoch's examples, and where in it rows begin."""
    rng = np.random.default_rng(schedule_lib.mix(self._key, epoch))
    order = rng.permutation(np.arange(self.store.num_examples, dtype=np.int32))
    return order, next_fit(self._sizes[:, order], self._layout.limits)

  def _add_epoch(self) -> None:
    _, starts = self._epoch(len(self._firsts) - 1)
    self._firsts.append(self._firsts[-1] + len(starts) - 1)

  def examples(self, number: int) -> np.ndarray:
    """Numbers of the examples in the task's row of a number, in their order."""
    with self._lock:
      while self._firsts[-1] <= number:
        self._add_epoch()
      epoch = bisect.bisect_right(self._firsts, number) - 1
      order, starts = self._epoch(epoch)
    row = number - self._firsts[epoch]
    return order[starts[row] : starts[row + 1]]

  def row(self, number: int) -> dict[str, np.ndarray]:
    """Features of the task's row of a number."""
    numbers = self.examples(number)
    examples = [
      {name: _cut(of[name], self._lengths[name][n]) for name in self._lengths}
      for n, of in zip(numbers, self.store.read(numbers))
    ]
    return self._layout.features(examples)

  def examples_a_row(self) -> float:
    """Mean examples a row, over as many whole epochs as have 2,000 rows."""
    with self._lock:
      while self._firsts[-1] < _MEASURED_ROWS:
        self._add_epoch()
      epochs = len(self._firsts) - 1
      return epochs * self.store.num_examples / self._firsts[-1]


def batch_function(
  *,
  rows: Mapping[str, PackedRows],
  schedule: schedule_lib.Schedule,
  places: Sequence[int],
) -> indexed.BatchFn:
  """Builds step -> some rows of the batch.

  A draw of the schedule is a row of a task, and a function of the seed, the step
  and its place in the batch: a host makes those that its devices need.

  Args:
    rows: task -> its rows, for every task of the schedule; of one layout.
    schedule: of the draws of all rows.
    places: of the rows to make, in [0, the schedule's batch size).

  Returns:
    step -> {feature: array [number of places, its length]}, with
    "decoder_language_ids" (registry index) and "decoder_task_ids" (index in
    schedule.tasks), both 0 on padding.

  Raises:
    ValueError: if a place is not in the batch, or a task has no rows.
  """
  schedule.check_places(places)
  missing = sorted(set(schedule.tasks) - set(rows))
  if missing:
    raise ValueError(f"no examples of {missing}; cache these tasks first")
  ids = {
    task: (registry.index(rows[task].store.language), number)
    for number, task in enumerate(schedule.tasks)
  }

  def batch(step: int) -> dict[str, np.ndarray]:
    made = []
    for task, number in schedule.draws(step, places):
      row = rows[task].row(number)
      real = (row["decoder_segment_ids"] > 0).astype(np.int32)
      language, index = ids[task]
      row["decoder_language_ids"] = real * np.int32(language)
      row["decoder_task_ids"] = real * np.int32(index)
      made.append(row)
    return {name: np.stack([row[name] for row in made]) for name in made[0]}

  return batch
