"""FLOPs of a traced function, every loop multiplied by its trips.

XLA's own analysis counts the body of a loop once, whatever the trips, which for
layers run by scan is wrong by their number. This walks the jaxpr instead, before
the compiler sees it. Counted are multiply–adds of matrix products and
convolutions, 2 each, and what kernels say of themselves; not elementwise work.

What rematerialisation computes again is in the jaxpr, so it is counted: with
remat "full" a train step has 8 FLOPs a weight and token, not 6.
"""

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

Jaxpr = core.Jaxpr
_Counts = collections.Counter


def of_function(function: Callable, *args: Any) -> dict[str, int]:
  """FLOPs of one call, over all devices, by kind.

  Args:
    function: traceable; jitted or not.
    *args: arrays or what has their shape and dtype.

  Returns:
    {primitive: FLOPs}; "pallas_call" by the kernels' cost estimates. A body of
    shard_map counts once for each device along its mesh axes.

  Raises:
    ValueError: if a loop that multiplies matrices has trips that the trace
      does not tell, or a kernel has no cost estimate; give it one.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def of_jaxpr(jaxpr: Jaxpr) -> dict[str, int]:
  """As `of_function`, of what it traces to."""
  return {name: n for name, n in _count(jaxpr).items() if n}


def _count(jaxpr: Jaxpr) -> _Counts:
  total = _Counts()
  for equation in jaxpr.eqns:
    count = _RULES.get(equation.primitive.name, _sum_of_parts)
    total.update(count(equation))
  return total


def _times(counts: _Counts, factor: int) -> _Counts:
  return _Counts({name: factor * n for name, n in counts.items()})


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, Jaxpr):
    yield value
  elif isinstance(value, (tuple, list)):
    for item in value:
      yield from _jaxprs(item)


def _sum_of_parts(equation) -> _Counts:
  """jit, remat, custom derivatives and the like: what they hold, once."""
  total = _Counts()
  for value in equation.params.values():
    for jaxpr in _jaxprs(value):
      total.update(_count(jaxpr))
  return total


def _dot_general(equation) -> _Counts:
  (contracting, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval
  depth = math.prod(left.shape[axis] for axis in contracting)
  return _Counts(dot_general=2 * depth * equation.outvars[0].aval.size)


def _ragged_dot(equation) -> _Counts:
  """Every row meets the matrix of its group: as one product of all rows.

  The gradient of the matrices is the same product with rows contracted.
  """
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (contracting, _), _ = numbers.dot_dimension_numbers
  left, right = (v.aval for v in equation.invars[:2])
  ragged = numbers.lhs_ragged_dimensions
  if set(ragged) & set(contracting):  # [rows, I], [rows, O] -> [groups, I, O]
    one_group = equation.outvars[0].aval.size // equation.invars[2].aval.size
    depth = math.prod(left.shape[axis] for axis in contracting)
    return _Counts(ragged_dot=2 * depth * one_group)
  del right
  depth = math.prod(left.shape[axis] for axis in contracting)
  return _Counts(ragged_dot=2 * depth * equation.outvars[0].aval.size)


def _convolution(equation) -> _Counts:
  kernel = equation.invars[1].aval
  outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
  return _Counts(
    convolution=2 * equation.outvars[0].aval.size * kernel.size // outputs
  )


def _scan(equation) -> _Counts:
  body = _count(equation.params["jaxpr"].jaxpr)
  return _times(body, equation.params["length"])


def _while(equation) -> _Counts:
  body = _count(equation.params["body_jaxpr"].jaxpr)
  if not sum(body.values()):
    return body
  return _times(body, _trips(equation))


def _trips(equation) -> int:
  """Of `fori_loop`: a counter from a literal, below a literal, in ones."""
  cond = equation.params["cond_jaxpr"].jaxpr
  num_cond = equation.params["cond_nconsts"]
  num_body = equation.params["body_nconsts"]
  carried = equation.invars[num_cond + num_body :]
  body = equation.params["body_jaxpr"].jaxpr
  try:
    (compare,) = cond.eqns
    counter, stop = compare.invars
    place = cond.invars.index(counter) - num_cond
    if not isinstance(stop, core.Literal):
      stop = equation.invars[cond.invars.index(stop)]
    start = carried[place]
    (step,) = (e for e in body.eqns if e.outvars[0] is body.outvars[place])
    ones = [v for v in step.invars if isinstance(v, core.Literal)]
    if compare.primitive.name != "lt" or step.primitive.name != "add":
      raise ValueError
    return max(0, math.ceil((stop.val - start.val) / ones[0].val))
  except (AttributeError, ValueError, IndexError) as error:
    raise ValueError(
      "a while loop multiplies matrices, and its number of trips is not in the "
      "trace; write it as lax.scan, or as fori_loop with literal bounds"
    ) from error


def _cond(equation) -> _Counts:
  """The dearest branch."""
  branches = [_count(b.jaxpr) for b in equation.params["branches"]]
  return max(branches, key=lambda counts: sum(counts.values()))


def _shard_map(equation) -> _Counts:
  mesh, manual = (equation.params[k] for k in ("mesh", "newly_manual_axes"))
  devices = math.prod(mesh.shape[axis] for axis in manual)
  return _times(_sum_of_parts(equation), devices)


def _pallas_call(equation) -> _Counts:
  estimate = equation.params["cost_estimate"]
  if estimate is not None:
    return _Counts(pallas_call=int(estimate.flops))
  jaxpr, mapping = equation.params["jaxpr"], equation.params["grid_mapping"]
  body = sum(_count(jaxpr).values())
  if body:
    if not all(isinstance(size, int) for size in mapping.grid):
      raise ValueError(
        f"kernel {equation.params['name']} has no cost estimate and a grid that "
        "is known only when it runs; give it a pl.CostEstimate"
      )
    body *= math.prod(mapping.grid)
  return _Counts(pallas_call=body)


_RULES = {
  "dot_general": _dot_general,
  "ragged_dot_general": _ragged_dot,
  "conv_general_dilated": _convolution,
  "scan": _scan,
  "while": _while,
  "cond": _cond,
  "shard_map": _shard_map,
  "pallas_call": _pallas_call,
}
