"""The launcher: `python -m mlm.run JOB --gin_file=FILE --gin.NAME=VALUE`.

JOB is a file `mlm/jobs/JOB.py` with a keyword-only function of the same name.
Later gin files win over earlier ones, and `--gin.NAME=VALUE` (a macro, or
`module.function.parameter`) wins over files. VALUE is a Python literal, a
`%MACRO` or an `@reference`; anything else is taken as a string, so paths need
no inner quotes.

All arguments are resolved and checked, and the operative configuration is
written to `config.gin` in the job's output directory, before the job starts.
This module alone imports gin.

--distributed: this is one of several processes, each started with the same
arguments; see `mlm.sharding.processes`.
"""

import ast
import copy
import difflib
import functools
import importlib
import importlib.util  # gin's include machinery expects it to be loaded.
import inspect
import os
import pathlib
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence

_JOBS_DIRECTORY = pathlib.Path(__file__).parent / "jobs"
# The others bring what devices computed to their one host, and write it.
_DISTRIBUTED_JOBS = ("pretrain", "finetune")
_DISTRIBUTED = "--distributed"
_COORDINATOR = "JAX_COORDINATOR_ADDRESS"


class UsageError(Exception):
  """A mistake in the command line or the configuration, told in one line."""


def job_summaries() -> dict[str, str]:
  """First docstring line of every job, read without importing any of them."""
  summaries = {}
  for path in sorted(_JOBS_DIRECTORY.glob("*.py")):
    tree = ast.parse(path.read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    for function in functions:
      if function.name == path.stem:
        summary = ast.get_docstring(function) or ""
        summaries[path.stem] = summary.split("\n")[0]
  return summaries


def usage() -> str:
  jobs = job_summaries()
  width = max(map(len, jobs), default=0)
  lines = [__doc__.split("\n\n")[0], "", "Jobs:"]
  lines += [f"  {name:<{width}}  {text}" for name, text in jobs.items()]
  lines += [
    "",
    "Options:",
    "  --gin_file=FILE       a gin file, from the repository root; repeatable",
    "  --gin.NAME=VALUE      sets a macro or module.function.parameter",
    "  --distributed         one of several processes: jax finds the others on TPU",
    "                        pods, with Slurm and Open MPI; else set JAX_PROCESS_ID,",
    "                        JAX_NUM_PROCESSES and JAX_COORDINATOR_ADDRESS",
    "  --help                this text",
    "",
    "Example:",
    "  python -m mlm.run train_tokenizer "
    "--gin_file=gin/experiments/quickstart/train_tokenizer.gin "
    "--gin.CORPUS=runs/sample/corpus --gin.OUTPUT=runs/sample/tokenizer",
  ]
  return "\n".join(lines)


def _suggest(name: str, known: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _parse_command_line(
  arguments: Sequence[str],
) -> tuple[str, list[str], dict[str, str]]:
  """Splits arguments into (job, gin files, bindings name -> value text)."""
  job, files, bindings = None, [], {}
  for argument in arguments:
    name, separator, value = argument.partition("=")
    if name == "--gin_file" and separator:
      files.append(value)
    elif name.startswith("--gin.") and separator:
      bindings[name.removeprefix("--gin.")] = value
    elif argument.startswith("-"):
      raise UsageError(
        f"unknown option {argument!r}; use --gin_file=FILE or "
        "--gin.NAME=VALUE (with '='), or --help"
      )
    elif job is None:
      job = argument
    else:
      raise UsageError(f"a second job {argument!r}; run one job at a time")
  if job is None:
    raise UsageError("no job given; --help lists them")
  jobs = list(job_summaries())
  if job not in jobs:
    raise UsageError(f"unknown job {job!r}; {_suggest(job, jobs)}")
  for file in files:
    if not pathlib.Path(file).is_file():
      raise UsageError(
        f"gin file {file!r} does not exist; give its path from the "
        f"repository root (current directory: {pathlib.Path.cwd()})"
      )
  return job, files, bindings


def _join_processes(job: str) -> int:
  """Joins the others, before anything asks jax for devices.

  Returns:
    The number of this process.

  Raises:
    UsageError: if the job is for one process, or the others are not found.
  """
  if job not in _DISTRIBUTED_JOBS:
    raise UsageError(
      f"job {job!r} runs in one process, but this is one of several; only "
      f"{' and '.join(_DISTRIBUTED_JOBS)} run in more: start one, without "
      "--distributed and JAX_COORDINATOR_ADDRESS"
    )
  from mlm.jobs import processes

  try:
    return processes.join()
  except (ValueError, RuntimeError) as error:
    raise UsageError(_first_line(error)) from error


def _binding_text(name: str, value: str) -> str:
  if value.startswith(("%", "@")):
    return f"{name} = {value}"
  try:
    ast.literal_eval(value)
  except (ValueError, SyntaxError):
    value = repr(value)
  return f"{name} = {value}"


@functools.cache  # gin refuses a second function of the same name
def _recorder(job_function: Callable) -> Callable:
  """A stand-in with the job's signature that returns its keyword arguments."""

  @functools.wraps(job_function)
  def record(**kwargs):
    return kwargs

  return record


def _first_line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).split("\n") if line.strip()]
  return lines[0] if lines else type(error).__name__


def _bound_macros(gin) -> set[str]:
  """Names of all macros that some file or flag binds."""
  text = gin.config_str()
  return set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", text, flags=re.MULTILINE))


def _used_macros(gin) -> set[str]:
  text = gin.operative_config_str()
  return set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", text, flags=re.MULTILINE))


def _check_types(job: str, function: Callable, kwargs: dict) -> None:
  """Refuses scalar arguments whose type is not the annotated one."""
  for name, annotation in typing.get_type_hints(function).items():
    accepted = {int: int, float: (int, float), str: str, bool: bool}
    if name not in kwargs or annotation not in accepted:
      continue
    value = kwargs[name]
    is_bool_as_number = isinstance(value, bool) and annotation is not bool
    if is_bool_as_number or not isinstance(value, accepted[annotation]):
      raise UsageError(
        f"{job}.{name} must be {annotation.__name__}, got {value!r}"
      )


def resolve(
  job: str, files: Sequence[str], bindings: dict[str, str]
) -> tuple[Callable, dict, str]:
  """Resolves a job's arguments from gin files and command-line bindings.

  Args:
    job: name of a job, `mlm/jobs/<job>.py`.
    files: gin files, later ones win.
    bindings: name -> value text of the command line.

  Returns:
    (job function, its keyword arguments, operative configuration text).

  Raises:
    UsageError: unknown name, unset argument, unused macro or wrong type.
  """
  import gin

  gin.clear_config()
  module = importlib.import_module(f"mlm.jobs.{job}")
  function = getattr(module, job)
  # gin resolves names by import; it must find the recorder in the job's place
  # so that everything is evaluated, and recorded, before the job runs.
  setattr(module, job, _recorder(function))
  try:
    try:
      gin.parse_config_files_and_bindings(
        list(files),
        [_binding_text(n, v) for n, v in bindings.items()],
        finalize_config=False,
      )
      recorder = gin.get_configurable(f"{job}.{job}")
    except Exception as e:  # gin raises a different type for each mistake
      raise UsageError(f"configuration: {_first_line(e)}") from e
    missing = [
      name
      for name, parameter in inspect.signature(function).parameters.items()
      if parameter.default is inspect.Parameter.empty
      and not _is_bound(gin, job, name)
    ]
    if missing:
      raise UsageError(
        f"job {job!r} needs {', '.join(missing)}; bind them in a gin file "
        f"(see gin/experiments/quickstart) or with --gin.{job}.{job}.{missing[0]}=…"
      )
    wanted = set(re.findall(r"%([A-Z][A-Z0-9_]*)", gin.config_str()))
    unset = sorted(wanted - _bound_macros(gin))
    if unset:
      raise UsageError(
        f"job {job!r} needs {', '.join(unset)}; add --gin.{unset[0]}=…"
      )
    try:
      kwargs = copy.copy(recorder())
    except (ValueError, TypeError, RuntimeError) as e:
      raise UsageError(f"configuration: {_first_line(e)}") from e
    used = _used_macros(gin)
    for name in sorted(_bound_macros(gin) - used):
      raise UsageError(
        f"macro {name!r} is set but job {job!r} does not use it; "
        f"{_suggest(name, sorted(used))}"
      )
    _check_types(job, function, kwargs)
    return function, kwargs, gin.operative_config_str()
  finally:
    setattr(module, job, function)
    gin.clear_config()


def _is_bound(gin, job: str, parameter: str) -> bool:
  try:
    gin.query_parameter(f"{job}.{job}.{parameter}")
  except ValueError:
    return False
  return True


def main(arguments: Sequence[str]) -> int:
  if not arguments or "--help" in arguments or "-h" in arguments:
    print(usage())
    return 0
  is_distributed = _DISTRIBUTED in arguments or _COORDINATOR in os.environ
  process = 0
  try:
    job, files, bindings = _parse_command_line(
      [argument for argument in arguments if argument != _DISTRIBUTED]
    )
    if is_distributed:
      process = _join_processes(job)
    function, kwargs, config = resolve(job, files, bindings)
    output = pathlib.Path(kwargs["output"])
    output.mkdir(parents=True, exist_ok=True)
    if process == 0:
      (output / "config.gin").write_text(config)
  except (UsageError, OSError) as error:
    print(f"mlm.run: error: {error}", file=sys.stderr)
    return 2
  try:
    function(**kwargs)
  except TimeoutError as error:
    # What hangs, such as storage, has threads that would keep the process.
    traceback.print_exc()
    print(f"mlm.run: error: {error}", file=sys.stderr, flush=True)
    os._exit(2)
  except (ValueError, OSError) as error:
    # Library code reports bad input with these; the full trace is for us.
    trace = output / (f"error_{process}.txt" if process else "error.txt")
    trace.write_text(traceback.format_exc())
    print(f"mlm.run: error: {error} (trace: {trace})", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
