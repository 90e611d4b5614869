"""Tables of names: what tensors of another program hold of our params.

Every name of theirs and every param of ours stands in a table once. "{}" in a
name is the number of the layer, a second one that of the expert; what of ours
is stacked over them is then made of one tensor for each.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
  """How one of their tensors holds params of ours, for one layer.

  Attributes:
    read: (theirs, shape of ours) -> list of ours.
    write: list of ours -> theirs.
  """

  read: Callable[[np.ndarray, tuple], list]
  write: Callable[[list], np.ndarray]


class Row(NamedTuple):
  """One of their names and what of ours it holds."""

  theirs: str
  ours: tuple[str, ...]
  layout: Layout


def flat(params: Any) -> dict[str, Any]:
  """{path: leaf} of our params."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
  }


def _tensors(
  rows: Iterable[Row], abstract: Any
) -> Iterator[tuple[str, Row, tuple, list]]:
  """(name, row, place in what is stacked, shapes of ours) of their tensors.

  The place is (), (layer,) or (layer, expert).
  """
  paths = flat(abstract)
  for row in rows:
    leaves = [paths[path] for path in row.ours]
    depth = row.theirs.count("{}")
    one = [jax.ShapeDtypeStruct(x.shape[depth:], x.dtype) for x in leaves]
    for place in np.ndindex(leaves[0].shape[:depth]):
      yield row.theirs.format(*place), row, place, one


def shapes(rows: Iterable[Row], abstract: Any) -> dict[str, tuple[int, ...]]:
  """{name: shape} of all their tensors.

  Args:
    rows: the table.
    abstract: our params, or what has their shapes and dtypes.
  """
  found, of_row = {}, {}
  for name, row, _, ours in _tensors(rows, abstract):
    if row.theirs not in of_row:  # all layers are alike
      written = jax.eval_shape(lambda *x, row=row: row.layout.write(x), *ours)
      of_row[row.theirs] = written.shape
    found[name] = of_row[row.theirs]
  return found


def problems(
  tensors: Mapping[str, Any],
  expected: Mapping[str, tuple[int, ...]],
  *,
  optional: Sequence[str],
) -> list[str]:
  """A line for every name that is missing or unexpected, and wrong shape.

  Args:
    tensors: name -> what has a shape.
    expected: of `shapes`.
    optional: names that may be there too.
  """
  known = {*expected, *optional}
  found = [f"missing {name}" for name in expected if name not in tensors]
  found += [f"unexpected {name}" for name in tensors if name not in known]
  for name, shape in expected.items():
    if name in tensors and tuple(tensors[name].shape) != shape:
      given = list(tensors[name].shape)
      found.append(f"{name} has shape {given}, needed {list(shape)}")
  return found


def read(
  rows: Iterable[Row],
  abstract: Any,
  tensors: Mapping[str, Any],
  *,
  shardings: Any,
) -> Any:
  """Our params, float32, of their tensors.

  A device asks for its part of a param alone. Of a param at a time the tensors
  are read, once for all devices; those mapped into memory, by the part. So
  tensors may lie on a disk and be larger than the memory.

  Args:
    rows: the table.
    abstract: our params, or what has their shapes and dtypes.
    tensors: name -> what has a shape and becomes an array of any float dtype.
    shardings: tree like params of where each is to live.
  """
  # path -> place -> what it is made of.
  sources: dict[str, dict] = {}
  for name, row, place, leaves in _tensors(rows, abstract):
    for part, (path, leaf) in enumerate(zip(row.ours, leaves, strict=True)):
      sources.setdefault(path, {})[place] = (name, row, part, leaf.shape)

  def param(path, leaf, sharding):
    of_path = sources[jax.tree_util.keystr(path, simple=True, separator="/")]
    depth = len(next(iter(of_path)))

    @functools.cache
    def whole(place):
      name, row, part, shape = of_path[place]
      return row.layout.read(np.asarray(tensors[name]), shape)[part]

    def of_device(index):
      places = [
        range(*stacked.indices(size))
        for stacked, size in zip(index[:depth], leaf.shape)
      ]
      parts = [
        np.asarray(whole(place)[index[depth:]], np.float32)
        for place in itertools.product(*places)
      ]
      return np.reshape(parts, (*map(len, places), *parts[0].shape))

    return jax.make_array_from_callback(leaf.shape, sharding, of_device)

  return jax.tree_util.tree_map_with_path(param, abstract, shardings)


def write(
  rows: Iterable[Row], params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) of their tensors, one at a time.

  Args:
    rows: the table.
    params: ours; one leaf at a time is brought to the host.
  """
  of_path = flat(params)
  for name, row, place, _ in _tensors(rows, params):
    ours = [
      of_path[path][place] if place else of_path[path] for path in row.ours
    ]
    yield name, np.ascontiguousarray(row.layout.write([*map(np.asarray, ours)]))


def nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b": tensor} as {"a": {"b": tensor}}."""
  tree: dict[str, Any] = {}
  for name, tensor in tensors.items():
    *parents, last = name.split("/")
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = tensor
  return tree


def traced_read(
  rows: Iterable[Row], abstract: Any, tensors: Mapping[str, Any]
) -> dict[str, Any]:
  """As `read`, within a program that jax traces, of arrays of ours' dtype.

  Args:
    rows: the table.
    abstract: our params, or what has their shapes and dtypes.
    tensors: name -> array.
  """
  parts: dict[str, list] = {}
  for name, row, _, leaves in _tensors(rows, abstract):
    for part, (path, leaf) in enumerate(zip(row.ours, leaves, strict=True)):
      ours = row.layout.read(tensors[name], leaf.shape)[part]
      parts.setdefault(path, []).append(ours)
  made = {}
  for path, leaf in flat(abstract).items():
    first, *others = parts[path]
    whole = jnp.stack(parts[path]) if others else first
    made[path] = whole.reshape(leaf.shape)
  return nested(made)


def traced_write(
  rows: Iterable[Row], params: Mapping[str, Any]
) -> dict[str, Any]:
  """As `write`, within a program that jax traces: {name: array}."""
  of_path = flat(params)
  return {
    name: row.layout.write([of_path[path][place] for path in row.ours])
    for name, row, place, _ in _tensors(rows, params)
  }
