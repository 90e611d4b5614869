"""Saving and restoring training states with orbax.

DIRECTORY/<step>/ holds params, rest (all else of the state) and metadata: a
JSON object, such as the model's config and the tokenizer's digest, that a
program must agree with before it may read the arrays. A step's directory gets
its name only when it is complete, so a process killed while saving leaves the
earlier checkpoints usable. Each device writes and reads its own part: neither
the mesh nor the number of processes of a reader need be those of the writer.

What TensorStore does not mend by itself (it repeats requests to object stores)
is tried again, as often as `_RETRY_SECONDS` says. Several processes do not try
again, since each would have to know of the others' failures: they end, and the
run goes on from an earlier checkpoint when it is started again. Storage that
neither writes nor fails within `_STORAGE_SECONDS` ends the run too.
"""

import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mlm.checkpoints import params as params_lib

_RETRY_SECONDS = (5, 30, 120)  # between attempts to save
_PEER_SECONDS = 600  # how long a process waits for the others to have written
_STORAGE_SECONDS = 3600  # for one checkpoint to be written


def _open(
  directory: str | os.PathLike, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    epath.Path(directory).absolute(),
    options=options,
    item_handlers={
      "params": ocp.StandardCheckpointHandler(),
      "rest": ocp.StandardCheckpointHandler(),
      "metadata": ocp.JsonCheckpointHandler(),
    },
  )


def _open_latest(
  directory: str | os.PathLike,
) -> tuple[ocp.CheckpointManager, int]:
  """A reader of a directory that must hold a checkpoint, and its last step."""
  step = latest_step(directory)
  if step is not None:
    manager = _open(directory, ocp.CheckpointManagerOptions(create=False))
    return manager, step
  raise FileNotFoundError(
    f"no checkpoint in {os.fspath(directory)}; run the job that writes it to "
    "its end, or correct the path"
  )


def _restore_metadata(manager: ocp.CheckpointManager, step: int) -> dict:
  return manager.restore(
    step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore())
  )["metadata"]


def _as_json(metadata: Mapping[str, Any]) -> dict:
  """The mapping as JSON gives it back: tuples are lists, keys are strings."""
  return json.loads(json.dumps(metadata))


def _without_params(state: Any) -> Any:
  return dataclasses.replace(state, params=())


class Checkpointer:
  """The checkpoints of one training job.

  Saving copies the state to the host and writes it in the background; `wait`
  returns when it is written.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep: int,
    keep_period: int | None = None,
    metadata: Mapping[str, Any],
    changing: Mapping[str, Any] | None = None,
  ):
    """Opens the directory, and clears what a killed process left in it.

    Args:
      directory: of the checkpoints; made if missing.
      keep: how many of the latest checkpoints to keep, >= 1.
      keep_period: those of its multiples are kept for ever; None for none.
      metadata: JSON object saved with every checkpoint. It holds what must not
        change over the life of the run.
      changing: further entries, saved with every checkpoint and not compared:
        the job that may change them reads them with `read_metadata` first.

    Raises:
      ValueError: if keep or keep_period is below 1, or the directory's latest checkpoint has
        other metadata; the message lists the differences.
    """
    if keep < 1:
      raise ValueError(f"keep {keep} must be at least 1 checkpoint")
    if keep_period is not None and keep_period < 1:
      raise ValueError(f"keep_period {keep_period} must be at least 1 step")
    self._directory = os.fspath(directory)
    changing = changing or {}
    self._metadata = _as_json({**metadata, **changing})
    kept = [ocp.checkpoint_managers.LatestN(keep)]
    if keep_period is not None:
      kept.append(ocp.checkpoint_managers.EveryNSteps(keep_period))
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(timeout_secs=_PEER_SECONDS),
    )
    self._manager = _open(directory, self._options)
    self._unwritten = None
    self._is_hanging = False
    step = self.latest_step()
    if step is not None:
      found = _restore_metadata(self._manager, step)
      params_lib.check_metadata(
        {name: of for name, of in found.items() if name not in changing},
        _as_json(metadata),
        where=self._at(step),
      )

  def _at(self, step: int) -> str:
    return f"checkpoint {os.path.join(self._directory, str(step))}"

  def latest_step(self) -> int | None:
    """Steps made at the latest complete checkpoint; None without one."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any) -> None:
    """Starts to save a state, once an earlier save has ended.

    If that one failed, it is lost, and this one is written before this returns.

    Args:
      step: steps made, the name of the checkpoint.
      state: dataclass pytree with a field `params`. It may be donated as soon
        as this returns.

    Raises:
      Exception: of the storage, if it fails again and again.
      TimeoutError: if it hangs.
    """
    self._unwritten = step, state
    try:
      self._start(step, state)
    except Exception as error:  # storage tells its errors by many types
      self._save_again(error)

  def _start(self, step: int, state: Any) -> None:
    arguments = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      rest=ocp.args.StandardSave(_without_params(state)),
      metadata=ocp.args.JsonSave(self._metadata),
    )
    self._within_time(
      lambda: self._manager.save(step, args=arguments, force=True)
    )

  def _within_time(self, function: Callable[[], Any]) -> None:
    """Calls what may hang; then raises TimeoutError and leaves it to itself."""
    raised = []

    def call():
      try:
        function()
      except Exception as error:
        raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_STORAGE_SECONDS)
    self._is_hanging = thread.is_alive()
    if self._is_hanging:
      raise TimeoutError(
        f"saving in {self._directory} has taken more than {_STORAGE_SECONDS} "
        "seconds; see that the storage is there and writes, then start again: the "
        "run goes on from its last complete checkpoint"
      )
    if raised:
      raise raised[0]

  def _save_again(self, error: Exception) -> None:
    """Repeats the last save until it is written, or raises the last error."""
    step, state = self._unwritten
    is_gone = any(
      isinstance(x, jax.Array) and x.is_deleted()
      for x in jax.tree.leaves(state)
    )
    if jax.process_count() > 1 or is_gone or self._is_hanging:
      raise error
    for seconds in _RETRY_SECONDS:
      logging.warning(
        "saving failed at step %d (%s: %s); trying again in %d seconds",
        step,
        type(error).__name__,
        error,
        seconds,
      )
      time.sleep(seconds)
      try:
        # The old one would raise what it met for ever.
        self._manager = _open(self._directory, self._options)
        if self.latest_step() == step:
          return
        self._start(step, state)
        self._within_time(self._manager.wait_until_finished)
        return
      except Exception as again:
        error = again
        if self._is_hanging:
          break
    raise error

  def restore(self, abstract_state: Any) -> Any:
    """The state of the latest checkpoint.

    Args:
      abstract_state: state of jax.ShapeDtypeStructs with shardings, which need
        not be those of the run that saved it.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if names, shapes or dtypes differ; the message lists them.
    """
    step = self.latest_step()
    if step is None:
      raise FileNotFoundError(
        f"no checkpoint in {self._directory}; create an initial state instead"
      )
    rest = _without_params(abstract_state)
    found = self._manager.item_metadata(step)
    params_lib.check_arrays(
      {name: found[name].tree for name in ("params", "rest")},
      {"params": abstract_state.params, "rest": rest},
      where=self._at(step),
    )
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract_state.params),
        rest=ocp.args.StandardRestore(rest),
      ),
    )
    return dataclasses.replace(items["rest"], params=items["params"])

  def wait(self) -> None:
    """Returns when nothing is being written any more.

    Raises:
      Exception: of the storage, if it fails again and again, or the state is
        donated, so that it cannot be saved again.
      TimeoutError: if it hangs.
    """
    if self._is_hanging:  # as has been raised
      return
    try:
      self._within_time(self._manager.wait_until_finished)
    except Exception as error:
      self._save_again(error)
    self._unwritten = None

  def close(self) -> None:
    """Waits, then ends the background threads."""
    self._manager.close()


def latest_step(directory: str | os.PathLike) -> int | None:
  """Steps made at a directory's latest complete checkpoint; None without one.

  A process looks by itself: where another has just made the directory, not all
  see it, and a manager's opening waits for those that open it too.
  """
  if not epath.Path(directory).exists():
    return None
  return max(ocp.utils.checkpoint_steps(directory), default=None)


def read_metadata(directory: str | os.PathLike) -> dict[str, Any]:
  """Metadata of the latest checkpoint of a directory.

  Raises:
    FileNotFoundError: if there is no checkpoint.
  """
  manager, step = _open_latest(directory)
  with manager:
    return _restore_metadata(manager, step)


def restore_params(
  directory: str | os.PathLike,
  abstract_params: Any,
  *,
  metadata: Mapping[str, Any],
) -> Any:
  """Params of the latest checkpoint of another job, without the optimizer's.

  Args:
    directory: of that job's checkpoints.
    abstract_params: tree of jax.ShapeDtypeStructs with shardings.
    metadata: entries that the checkpoint's must equal; it may have others.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if metadata, names, shapes or dtypes differ; the message lists
      the differences.
  """
  manager, step = _open_latest(directory)
  with manager:
    where = f"checkpoint {os.path.join(os.fspath(directory), str(step))}"
    found = _restore_metadata(manager, step)
    params_lib.check_metadata(
      {name: found[name] for name in metadata if name in found},
      _as_json(metadata),
      where=where,
    )
    params_lib.check_arrays(
      manager.item_metadata(step)["params"].tree, abstract_params, where=where
    )
    return manager.restore(
      step,
      args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params)),
    )["params"]
