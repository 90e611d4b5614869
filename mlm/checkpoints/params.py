"""Comparing what a checkpoint holds with what a program expects."""

import json
from collections.abc import Mapping
from typing import Any

import jax


def _shapes(tree: Any) -> dict[str, str]:
  """{path: "float32 [2, 3]"} of every array of a tree."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{jax.numpy.dtype(leaf.dtype).name} {list(leaf.shape)}"
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def _values(tree: Any, path: str = "") -> dict[str, str]:
  """{path: JSON} of every value of nested dicts."""
  if not isinstance(tree, Mapping):
    return {path: json.dumps(tree, ensure_ascii=False)}
  values = {}
  for name, child in tree.items():
    values.update(_values(child, f"{path}/{name}" if path else str(name)))
  return values


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
  """Lines "path: found, expected" where two flat mappings differ, or ""."""
  return "\n".join(
    f"  {path}: checkpoint {found.get(path, 'none')}, "
    f"expected {expected.get(path, 'none')}"
    for path in sorted({*found, *expected})
    if found.get(path) != expected.get(path)
  )


def check_arrays(found: Any, expected: Any, *, where: str) -> None:
  """Raises if two trees differ in names, shapes or dtypes.

  Args:
    found: tree of arrays, or of what has a shape and a dtype.
    expected: the same.
    where: checkpoint that `found` is of, for the message.

  Raises:
    ValueError: with a line for every array that differs.
  """
  difference = _difference(_shapes(found), _shapes(expected))
  if difference:
    raise ValueError(
      f"{where} holds other arrays than the model and optimizer expect:\n"
      f"{difference}\nuse the settings that the checkpoint was trained with, "
      "or another checkpoint"
    )


def check_metadata(
  found: Mapping[str, Any], expected: Mapping[str, Any], *, where: str
) -> None:
  """Raises if two JSON objects differ.

  Args:
    found: metadata of a checkpoint.
    expected: metadata of the program.
    where: checkpoint that `found` is of, for the message.

  Raises:
    ValueError: with a line for every entry that differs.
  """
  difference = _difference(_values(found), _values(expected))
  if difference:
    raise ValueError(
      f"{where} was made with other settings:\n{difference}\n"
      "set them as in the checkpoint, or choose another directory"
    )
