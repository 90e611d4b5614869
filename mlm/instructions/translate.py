"""Translators and generators that jobs are given, and those that read files.

A Translator maps (texts, source code, target code) to as many texts, a
Generator (prompts, language code) to as many responses; codes are canonical.
Whatever makes them (a model, a service, people) can write a file once, which
these read.
"""

from collections.abc import Callable, Sequence

from mlm.instructions import records
from mlm.languages import registry

Translator = Callable[[Sequence[str], str, str], list[str]]
Generator = Callable[[Sequence[str], str], list[str]]


def _looked_up(table: dict, keys: list[tuple], path: str) -> list[str]:
  missing = [key for key in keys if key not in table]
  if missing:
    raise ValueError(
      f"{path} lacks {len(missing)} of {len(keys)} texts, the first for "
      f"{missing[0]!r}; make them and add their lines"
    )
  return [table[key] for key in keys]


def _read(path: str, names: Sequence[str], codes: Sequence[str]) -> list[dict]:
  rows = records.read_records(path)
  for number, row in enumerate(rows, start=1):
    if not all(isinstance(row.get(name), str) for name in names):
      raise ValueError(
        f"{path}, line {number}: {', '.join(names)} are needed, all texts"
      )
    for name in codes:
      registry.get(row[name])
  return rows


def translator_from_file(*, path: str) -> Translator:
  """Translations from JSON lines {"source", "target", "text", "translation"}.

  Args:
    path: of the file; source and target are language codes.

  Raises:
    FileNotFoundError, ValueError: if the file is missing or a line incomplete;
      ValueError from the Translator, if it lacks a text.
  """
  fields = ("source", "target", "text", "translation")
  table = {
    (row["source"], row["target"], row["text"]): row["translation"]
    for row in _read(path, fields, ("source", "target"))
  }

  def translate(texts, source, target):
    return _looked_up(table, [(source, target, text) for text in texts], path)

  return translate


def generator_from_file(*, path: str) -> Generator:
  """Responses from JSON lines {"language", "prompt", "response"}.

  Args:
    path: of the file.

  Raises:
    FileNotFoundError, ValueError: as `translator_from_file`.
  """
  fields = ("language", "prompt", "response")
  table = {
    (row["language"], row["prompt"]): row["response"]
    for row in _read(path, fields, ("language",))
  }

  def generate(prompts, code):
    return _looked_up(table, [(code, prompt) for prompt in prompts], path)

  return generate
