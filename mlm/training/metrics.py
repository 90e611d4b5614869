"""From (numerator, denominator) pairs to the lines of metrics.jsonl.

A pair is a ratio whose parts add up over steps, devices and hosts. A None for
denominator marks a total, such as a number of tokens. Scalars become numbers;
vectors become {language code: value}, of the languages that occurred, and those
named *_by_expert lists.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def _number(value: float) -> float | None:
  """A float that JSON can hold: None for what is not finite."""
  return float(value) if math.isfinite(value) else None


def summarize(
  window: Sequence[Mapping[str, tuple[Any, Any]]],
  *,
  language_codes: Sequence[str],
) -> dict[str, Any]:
  """Adds up the metrics of several steps, in float64, and divides.

  Args:
    window: metrics of one or more steps, as host arrays of shape [] or
      [len(language_codes)], or of any length if named *_by_expert.
    language_codes: code of each position of the vectors.

  Returns:
    {name: value}, {name: {code: value}} and {name: [value]} in the order of the first step's
    metrics; None where a scalar's denominator is 0.
  """
  record = {}
  for name in window[0]:
    numerator = sum(np.asarray(m[name][0], np.float64) for m in window)
    if window[0][name][1] is None:
      occurs, values = numerator != 0, numerator
    else:
      denominator = sum(np.asarray(m[name][1], np.float64) for m in window)
      occurs = denominator != 0
      values = np.divide(
        numerator,
        denominator,
        where=occurs,
        out=np.full(np.shape(numerator), np.nan),
      )
    if np.ndim(values) == 0:
      record[name] = _number(values)
    elif name.endswith("_by_expert"):
      record[name] = [_number(value) for value in values]
    elif len(values) == len(language_codes):
      record[name] = {
        code: _number(value)
        for code, value, occurred in zip(language_codes, values, occurs)
        if occurred
      }
    else:
      raise ValueError(
        f"metric {name!r} has {len(values)} entries, but there are "
        f"{len(language_codes)} language codes; give the loss "
        "num_languages = len(language_codes)"
      )
  return record


def append(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
  """Adds one line to the file, which is made if it is missing."""
  with open(path, "a", encoding="utf-8") as f:
    f.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def drop_from(path: str | os.PathLike, step: int) -> None:
  """Drops the lines that a run starting at `step` will write again.

  Those are the lines of steps >= `step`, and a last line cut short when the
  run was killed. The file is replaced whole or not at all.

  Args:
    path: of metrics.jsonl; may be missing.
    step: first step that is still to be made.

  Raises:
    ValueError: if a line other than the last is no JSON object with a step.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
  kept = []
  for number, line in enumerate(lines, start=1):
    if number == len(lines) and not line.endswith("\n"):
      continue
    try:
      if json.loads(line)["step"] < step:
        kept.append(line)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path}, line {number}: not a JSON object with a step; repair or "
        "move the file, the run will not write after it"
      ) from error
  if len(kept) < len(lines):
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """All records of a metrics file, in order of step.

  A last line that is not whole is left out: the run is writing it, or was
  killed then.
  """
  with open(path, encoding="utf-8") as f:
    return [json.loads(line) for line in f if line.endswith("\n")]
