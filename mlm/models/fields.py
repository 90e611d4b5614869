"""Checks that the configurations of all models share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

_ACTIVATION_DTYPES = ("float32", "bfloat16")


def check(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
  """Raises unless whole numbers are positive and words are known.

  Args:
    config: a dataclass with `activation_dtype`; every field of type int must be
      at least 1.
    choices: field -> the words it may be.

  Raises:
    ValueError: that names the field, its value and what it may be.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type is int and value < 1:
      raise ValueError(f"{field.name} {value} must be at least 1")
  if config.activation_dtype == "float16":
    raise ValueError(
      "activation_dtype 'float16': activations of large models exceed its "
      "range of 65,504, those of T5's MLP first; use bfloat16"
    )
  choices = {"activation_dtype": _ACTIVATION_DTYPES, **choices}
  for name, known in choices.items():
    if getattr(config, name) not in known:
      raise ValueError(
        f"{name} {getattr(config, name)!r}: choose {', '.join(known)}"
      )


def check_positive(config: Any, names: Sequence[str]) -> None:
  """Raises ValueError unless the fields of these names are above 0."""
  for name in names:
    if not getattr(config, name) > 0:
      raise ValueError(f"{name} {getattr(config, name)} must be above 0")
