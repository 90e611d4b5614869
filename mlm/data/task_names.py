"""Names of tasks: a prefix and the code of a language."""

from mlm.languages import registry


def task_name(prefix: str, code: str) -> str:
  """`mc4`, `swh_Latn` -> `mc4.swh_Latn`."""
  return f"{prefix}.{code}"


def task_language(task: str) -> str:
  """`mc4.swh_Latn` -> `swh_Latn`."""
  return task.rpartition(".")[2]


def checked_language(task: str) -> str:
  """`task_language`, checked.

  Raises:
    ValueError: if the last part of the name is not a code of the registry.
  """
  code = task_language(task)
  if code not in registry.codes():
    raise ValueError(
      f"the last part of task {task} is not the code of a language; name tasks "
      "such as source.swh_Latn, or give the language of this one"
    )
  return code
