"""Names of tasks: a prefix and the code of a language."""


def task_name(prefix: str, code: str) -> str:
  """`mc4`, `swh_Latn` -> `mc4.swh_Latn`."""
  return f"{prefix}.{code}"


def task_language(task: str) -> str:
  """`mc4.swh_Latn` -> `swh_Latn`."""
  return task.rpartition(".")[2]
