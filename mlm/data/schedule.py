"""Which task and which of its rows every draw of a run takes, by arithmetic.

Draw i of a run is a function of (seed, i): nothing is iterated, so any step
replays on any number of hosts. Rates hold tightly: in a cycle of 2^20 draws
each task has a whole number of them, spread evenly, and at any time each has
had its share to within a few draws.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mlm.languages import rates as rates_lib

_CYCLE = 1 << 20
_MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Phase:
  """Rates from a step on.

  Attributes:
    start_step: first step.
    rates: task -> share of the draws; in plans, language -> share.
  """

  start_step: int
  rates: Mapping[str, float]


def mix(*values: int) -> int:
  """A 64-bit hash of integers (the finalizer of SplitMix64, chained)."""
  state = 0
  for value in values:
    state = (state + value + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    state ^= state >> 31
  return state


def permuted(index: int, size: int, key: int) -> int:
  """Where a pseudo-random permutation of range(size) sends an index.

  A Feistel network of four rounds on the next even number of bits; what falls
  outside is sent on until it falls inside. Needs no memory.

  Args:
    index: in [0, size).
    size: at least 1.
    key: of the permutation.
  """
  half = max(1, ((size - 1).bit_length() + 1) // 2)
  low = (1 << half) - 1
  while True:
    left, right = index >> half, index & low
    for turn in range(4):
      left, right = right, left ^ (mix(key, turn, right) & low)
    index = left << half | right
    if index < size:
      return index


def _quotas(rates: Sequence[float]) -> np.ndarray:
  """Draws of each task in a cycle, int64 [tasks]: at least one, by largest rest."""
  exact = np.asarray(rates) * _CYCLE
  quotas = np.maximum(1, np.floor(exact)).astype(np.int64)
  order = np.argsort(quotas - exact, kind="stable")
  missing = _CYCLE - quotas.sum()
  if missing > 0:
    quotas[order[:missing]] += 1
  while missing < 0:  # tasks so rare that one draw a cycle is more than theirs
    quotas[np.argmax(quotas)] -= 1
    missing += 1
  return quotas


@functools.lru_cache(maxsize=4)
def _cycle(
  rates: tuple[float, ...], key: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tasks of the draws of a cycle, which draw of its task each is, and quotas."""
  quotas = _quotas(rates)
  tasks = np.repeat(np.arange(len(quotas)), quotas)
  ranks = np.arange(_CYCLE) - np.repeat(np.cumsum(quotas) - quotas, quotas)
  jitter = np.random.default_rng(key).random(_CYCLE)
  order = np.argsort((ranks + jitter) / quotas[tasks], kind="stable")
  return tasks[order].astype(np.int32), ranks[order], quotas


def check_starts(starts: Sequence[int]) -> None:
  """Raises ValueError unless phases start at 0 and then ever later."""
  starts = list(starts)
  if not starts or starts[0] != 0 or starts != sorted(set(starts)):
    raise ValueError(
      f"phases start at steps {starts}; the first must be 0 and each later "
      "than the one before"
    )


class Schedule:
  """The draws of a run: for each, its task and a number that counts up."""

  def __init__(self, phases: Sequence[Phase], *, batch_size: int, seed: int):
    """Args:
      phases: in order, the first from step 0; all over the same tasks.
      batch_size: draws a step.
      seed: of the order.

    Raises:
      ValueError: if phases are out of order, have other tasks than the first,
        or rates that are not positive or do not sum to 1.
    """
    starts = [phase.start_step for phase in phases]
    check_starts(starts)
    self.tasks = tuple(sorted(phases[0].rates))
    for phase in phases:
      if tuple(sorted(phase.rates)) != self.tasks:
        raise ValueError(
          f"the phase from step {phase.start_step} has tasks "
          f"{sorted(phase.rates)}, the first has {list(self.tasks)}; a task that "
          "comes later has a small rate before"
        )
      rates_lib.check_shares(phase.rates)
    self.batch_size, self._seed = batch_size, seed
    self._phases = [
      (phase.start_step, tuple(phase.rates[task] for task in self.tasks))
      for phase in phases
    ]
    # Draws of each task before each phase.
    self._before = [np.zeros(len(self.tasks), np.int64)]
    for number in range(len(phases) - 1):
      draws = (starts[number + 1] - starts[number]) * batch_size
      self._before.append(self._before[-1] + self._counts(number, draws))

  def _cycle_of(self, phase: int, number: int):
    return _cycle(self._phases[phase][1], mix(self._seed, phase, number))

  def _counts(self, phase: int, draws: int) -> np.ndarray:
    """Draws of each task among the first of a phase."""
    cycles, rest = divmod(draws, _CYCLE)
    tasks, _, quotas = self._cycle_of(phase, cycles)
    return cycles * quotas + np.bincount(
      tasks[:rest], minlength=len(self.tasks)
    )

  def counts(self, num_steps: int) -> dict[str, int]:
    """Draws of each task in the first steps of a run."""
    phase = self._phase_of(num_steps)
    draws = (num_steps - self._phases[phase][0]) * self.batch_size
    counts = self._before[phase] + self._counts(phase, draws)
    return dict(zip(self.tasks, counts.tolist()))

  def _phase_of(self, step: int) -> int:
    return max(i for i, (start, _) in enumerate(self._phases) if start <= step)

  def check_places(self, places: Sequence[int]) -> None:
    """Raises ValueError unless there are places and all are in the batch."""
    if not places or min(places) < 0 or max(places) >= self.batch_size:
      raise ValueError(
        f"places {list(places)} of a batch of {self.batch_size}: at least one, "
        "and each in the batch"
      )

  def draws(self, step: int, places: Iterable[int]) -> list[tuple[str, int]]:
    """(task, number among the task's draws) of some draws of a step.

    Args:
      step: at least 0.
      places: which draws, each in [0, batch_size).
    """
    phase = self._phase_of(step)
    first = (step - self._phases[phase][0]) * self.batch_size
    result = []
    for draw in places:
      number, place = divmod(first + draw, _CYCLE)
      tasks, ranks, quotas = self._cycle_of(phase, number)
      task = tasks[place]
      seen = self._before[phase][task] + number * quotas[task] + ranks[place]
      result.append((self.tasks[task], int(seen)))
    return result
