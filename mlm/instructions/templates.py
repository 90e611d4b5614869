"""Instruction wordings by language.

The table `templates.json` was written for this project and has not been
reviewed by native speakers. A language without a row uses the English wording,
and the records made with it say so.
"""

import functools
import json
import pathlib

FALLBACK = "eng_Latn"
TASKS = ("continue", "repeat", "name_language")


@functools.cache
def table() -> dict[str, dict[str, str]]:
  path = pathlib.Path(__file__).parent / "templates.json"
  return json.loads(path.read_text(encoding="utf-8"))


def template_language(code: str) -> str:
  """The language whose wording is used for `code`."""
  return code if code in table() else FALLBACK


def prompt(task: str, code: str, text: str) -> str:
  """The instruction of a task in a language, and the text on a line of its own.

  Raises:
    ValueError: if the task is unknown.
  """
  if task not in TASKS:
    raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
  return f"{table()[template_language(code)][task]}\n{text}"


def autonym(code: str) -> str | None:
  """The language's name for itself; None if the table lacks it."""
  row = table().get(code)
  return row["autonym"] if row else None
