"""Collectives of a compiled program: how often, and bytes that a device moves.

Read from the compiler's text. Loops multiply what is in their bodies by the
constant that their condition compares with; XLA unrolls none of ours.
"""

import collections
import math
import re
from typing import NamedTuple

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?%[\w.\-]+ = (.*?) (" + "|".join(KINDS) + r")(-start)?\((.*)$"
)
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
  r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
  """All collectives of a kind among equally many devices.

  Attributes:
    kind: one of `KINDS`.
    devices: in a group; 2 for collective-permute, which goes in pairs.
    count: executions in one call.
    moved_bytes: that one device sends in one call, in rings: (n - 1) / n of
      the whole array, twice that for all-reduce, an array for a permutation.
  """

  kind: str
  devices: int
  count: int
  moved_bytes: int


def of_text(text: str) -> list[Collective]:
  """Collectives of `jax.stages.Compiled.as_text()`, the heaviest first."""
  bodies = _computations(text)
  calls = {name: _calls(lines, bodies) for name, lines in bodies.items()}
  times = _executions(text, calls)
  found = collections.defaultdict(lambda: [0, 0])
  for name, lines in bodies.items():
    for line in lines:
      match = _INSTRUCTION.match(line)
      if not match or not times[name]:
        continue
      result, kind, start, rest = match.groups()
      # On TPUs a reduce-scatter is an all-reduce in a computation of its own
      # of that name, which keeps a part.
      if kind == "all-reduce" and "all-reduce-scatter" in name:
        kind = "reduce-scatter"
        whole = _size(result)
      elif kind == "reduce-scatter":
        whole = _size(result) * _group_size(rest)
      else:
        whole = _size(
          result, only=1 if start and kind != "all-reduce" else None
        )
      devices = 2 if kind == "collective-permute" else _group_size(rest)
      entry = found[kind, devices]
      entry[0] += times[name]
      entry[1] += times[name] * _moved(kind, whole, devices)
  rows = [Collective(*key, *values) for key, values in found.items()]
  return sorted(rows, key=lambda row: -row.moved_bytes)


def _moved(kind: str, whole: int, devices: int) -> int:
  if kind == "collective-permute":
    return whole
  passes = 2 if kind == "all-reduce" else 1
  return passes * whole * (devices - 1) // devices


def _computations(text: str) -> dict[str, list[str]]:
  bodies, current = {}, None
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      current = bodies.setdefault(match.group(1), [])
    elif line.rstrip() == "}":  # strings go over lines, some begin with one
      current = None
    elif current is not None:
      current.append(line)
  return bodies


def _calls(lines, bodies) -> list[tuple[str, int]]:
  """(computation called, times) of each call in a computation."""
  called = []
  for line in lines:
    loop = _WHILE.search(line)
    if loop:
      condition, body = loop.groups()
      called.append((body, _trips(bodies[condition])))
      continue
    called += [(name, 1) for name in _CALLED.findall(line)]
    for names in _BRANCHES.findall(line):
      called += [(name.strip(" %"), 1) for name in names.split(",")]
  return called


def _trips(condition: list[str]) -> int:
  constants = [
    int(n)
    for line in condition
    for n in re.findall(r"[su]32\[\]\S* constant\((\d+)\)", line)
  ]
  return max(constants, default=1)


def _executions(text, calls) -> collections.Counter:
  entry = re.search(r"^ENTRY %?([\w.\-]+) ", text, re.MULTILINE).group(1)
  times = collections.Counter()

  def visit(name, factor):
    times[name] += factor
    for called, trips in calls.get(name, ()):
      visit(called, factor * trips)

  visit(entry, 1)
  return times


def _size(result: str, only: int | None = None) -> int:
  sizes = [
    _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    for dtype, shape in _SHAPE.findall(re.sub(r"\{[^}]*\}", "", result))
    if dtype in _BYTES
  ]
  return sum(sizes) if only is None else sizes[min(only, len(sizes) - 1)]


def _group_size(rest: str) -> int:
  """Devices of a group, in any of the three notations."""
  match = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
  if match:
    return int(match.group(1))
  match = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
  if match:
    sizes = dict(part.split("=") for part in match.group(1).split(","))
    return math.prod(int(sizes[axis.strip()]) for axis in match[2].split(","))
  match = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
  return len(match.group(1).split(",")) if match else 1
