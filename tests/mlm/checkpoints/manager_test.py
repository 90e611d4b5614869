import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mlm.checkpoints import manager

ROOT = pathlib.Path(__file__).parents[3]
METADATA = {"model": {"d_model": 8, "betas": (0.9, 0.95)}, "tokenizer": "3fa9"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: Any
  params: Any
  opt_state: Any


def _state(step):
  generator = np.random.default_rng(step)
  params = {
    "embedding": jnp.float32(generator.normal(size=(16, 8))),
    "layers": {"scale": jnp.bfloat16(generator.normal(size=(8,)))},
  }
  return State(jnp.int32(step), params, optax.adam(1e-3).init(params))


def _abstract(tree):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def _assert_equal(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture
def saved(tmp_path):
  """A directory with the checkpoints of steps 5 and 10."""
  checkpointer = manager.Checkpointer(tmp_path, keep=2, metadata=METADATA)
  checkpointer.save(5, _state(5))
  checkpointer.save(10, _state(10))
  checkpointer.close()
  return tmp_path


def test_state_comes_back_bit_for_bit(saved):
  checkpointer = manager.Checkpointer(saved, keep=2, metadata=METADATA)
  assert checkpointer.latest_step() == 10
  restored = checkpointer.restore(_abstract(_state(0)))
  assert isinstance(restored, State)
  _assert_equal(restored, _state(10))
  assert restored.params["layers"]["scale"].dtype == jnp.bfloat16


def test_state_comes_back_on_another_mesh(saved):
  mesh = Mesh(np.array(jax.devices()[:4]).reshape(4), ("fsdp",))
  sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
  replicated = NamedSharding(mesh, PartitionSpec())
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding if x.ndim == 2 else replicated
    ),
    _state(0),
  )
  checkpointer = manager.Checkpointer(saved, keep=2, metadata=METADATA)
  restored = checkpointer.restore(abstract)
  _assert_equal(restored, _state(10))
  assert restored.params["embedding"].sharding == sharding


def test_only_the_latest_are_kept(saved):
  checkpointer = manager.Checkpointer(saved, keep=2, metadata=METADATA)
  checkpointer.save(15, _state(15))
  checkpointer.close()
  assert sorted(p.name for p in saved.iterdir()) == ["10", "15"]


def test_checkpoints_of_a_period_are_kept_for_ever(tmp_path):
  checkpointer = manager.Checkpointer(
    tmp_path, keep=1, keep_period=10, metadata={}
  )
  for step in range(5, 40, 5):
    checkpointer.save(step, _state(step))
  checkpointer.close()
  kept = sorted(int(path.name) for path in tmp_path.iterdir())
  assert kept == [10, 20, 30, 35]
  with pytest.raises(ValueError, match="keep_period 0"):
    manager.Checkpointer(tmp_path, keep=1, keep_period=0, metadata={})


def test_one_mesh_after_another_reads_what_the_last_wrote(tmp_path):
  """Split over fsdp, then over tensor, then whole on one device."""
  sharding_of = {
    name: NamedSharding(
      Mesh(np.array(jax.devices()[:number]), ("devices",)), PartitionSpec(*spec)
    )
    for name, number, spec in (
      ("fsdp", 8, ("devices",)),
      ("tensor", 8, (None, "devices")),
      ("one", 1, ()),
    )
  }
  want = _state(1)
  state = jax.device_put(
    want,
    jax.tree.map(
      lambda x: sharding_of["fsdp"] if x.ndim == 2 else jax.devices()[0], want
    ),
  )
  for step, name in enumerate(("tensor", "one"), start=1):
    checkpointer = manager.Checkpointer(tmp_path, keep=1, metadata={})
    checkpointer.save(step, state)
    checkpointer.wait()
    abstract = jax.tree.map(
      lambda x, name=name: jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=sharding_of[name if x.ndim == 2 else "one"],
      ),
      want,
    )
    state = checkpointer.restore(abstract)
    assert state.params["embedding"].sharding == sharding_of[name]
    checkpointer.close()
  _assert_equal(state, want)


class Storage:
  """Fails as often as told when orbax hands it the params of a checkpoint."""

  def __init__(self, monkeypatch, failures, *, in_background):
    self.left, self.in_background = failures, in_background
    # What is still under way of a failed attempt ends meanwhile.
    monkeypatch.setattr(manager, "_RETRY_SECONDS", (1, 1))
    handler = manager.ocp.StandardCheckpointHandler
    write, finalize = handler.async_save, handler.finalize

    async def async_save(handler, directory, **kwargs):
      if "params" in str(directory) and not self.in_background:
        self.fail()
      return await write(handler, directory, **kwargs)

    def finalizing(handler, directory):
      if self.in_background:
        self.fail()
      return finalize(handler, directory)

    monkeypatch.setattr(handler, "async_save", async_save)
    monkeypatch.setattr(handler, "finalize", finalizing)

  def fail(self):
    if self.left:
      self.left -= 1
      raise OSError("no space left on device")


@pytest.mark.parametrize("in_background", [False, True])
def test_a_save_that_fails_twice_is_made_and_told(
  tmp_path, monkeypatch, caplog, in_background
):
  checkpointer = manager.Checkpointer(tmp_path, keep=3, metadata={})
  checkpointer.save(1, _state(1))
  checkpointer.wait()
  Storage(monkeypatch, 2, in_background=in_background)
  checkpointer.save(2, _state(2))
  checkpointer.wait()
  assert caplog.text.count("saving failed at step 2 (OSError: no space") == 2
  checkpointer.save(3, _state(3))
  checkpointer.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]
  checkpointer = manager.Checkpointer(tmp_path, keep=3, metadata={})
  _assert_equal(checkpointer.restore(_abstract(_state(0))), _state(3))


@pytest.mark.parametrize("in_background", [False, True])
def test_storage_that_fails_for_ever_ends_the_run_after_bounded_attempts(
  tmp_path, monkeypatch, in_background
):
  checkpointer = manager.Checkpointer(tmp_path, keep=2, metadata={})
  checkpointer.save(1, _state(1))
  checkpointer.wait()
  storage = Storage(monkeypatch, 100, in_background=in_background)
  with pytest.raises(OSError, match="no space left"):
    checkpointer.save(2, _state(2))
    checkpointer.wait()
  assert storage.left == 100 - 3
  assert manager.latest_step(tmp_path) == 1


@pytest.mark.parametrize("where", ["async_save", "finalize"])
def test_a_job_whose_storage_hangs_ends_and_says_so(tmp_path, where):
  """Although the writer's threads do not end."""
  program = f"""
import sys, time
from mlm import run
from mlm.checkpoints import manager
from tests.mlm.checkpoints.manager_test import _state

def job(output):
  checkpointer = manager.Checkpointer(output, keep=2, metadata={{}})
  checkpointer.save(1, _state(1))
  checkpointer.wait()
  hang = lambda *args, **kwargs: time.sleep(1000)
  manager.ocp.StandardCheckpointHandler.{where} = hang
  manager._STORAGE_SECONDS = 2
  try:
    checkpointer.save(2, _state(2))
  finally:
    checkpointer.wait()

run.resolve = lambda *args: (job, {{"output": sys.argv[1]}}, "")
sys.exit(run.main(["pretrain"]))
"""
  done = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 2, done.stderr
  assert f"saving in {tmp_path} has taken more than 2 seconds" in done.stderr
  assert manager.latest_step(tmp_path) == 1


def test_a_lost_save_is_told_and_the_next_one_written(
  tmp_path, monkeypatch, caplog
):
  """The state of the lost one is gone: it was donated to a step."""
  state, other = _state(1), _state(2)
  checkpointer = manager.Checkpointer(tmp_path, keep=2, metadata={})
  Storage(monkeypatch, 1, in_background=True)
  checkpointer.save(1, state)
  for x in jax.tree.leaves(state):
    x.delete()
  checkpointer.save(2, other)
  assert "saving failed at step 2" in caplog.text
  assert manager.latest_step(tmp_path) == 2
  checkpointer.close()
  gone = _state(3)
  checkpointer = manager.Checkpointer(tmp_path, keep=2, metadata={})
  Storage(monkeypatch, 1, in_background=True)
  checkpointer.save(3, gone)
  for x in jax.tree.leaves(gone):
    x.delete()
  with pytest.raises(OSError, match="no space left"):
    checkpointer.wait()


def test_state_may_be_donated_while_it_is_being_written(tmp_path):
  size = (512, 1024)
  state = State(jnp.int32(0), {"w": jnp.zeros(size)}, ())
  increment = jax.jit(
    lambda state: State(state.step + 1, {"w": state.params["w"] + 1}, ()),
    donate_argnums=0,
  )
  checkpointer = manager.Checkpointer(tmp_path, keep=1, metadata={})
  for step in range(3):
    abstract = _abstract(state)
    checkpointer.save(step, state)
    for _ in range(5):
      state = increment(state)
    checkpointer.wait()
    restored = checkpointer.restore(abstract)
    np.testing.assert_array_equal(restored.params["w"], 5.0 * step)
  checkpointer.close()


def test_other_metadata_is_an_error_before_anything_is_read(saved):
  other = {**METADATA, "tokenizer": "77ab"}
  with pytest.raises(ValueError, match='"3fa9", expected "77ab"') as error:
    manager.Checkpointer(saved, keep=2, metadata=other)
  assert "model" not in str(error.value)


def test_entries_that_may_change_are_saved_and_not_compared(saved):
  for phases in ([0], [0, 7]):
    checkpointer = manager.Checkpointer(
      saved, keep=2, metadata=METADATA, changing={"phases": phases}
    )
    checkpointer.save(20 + len(phases), _state(20))
    checkpointer.close()
    assert manager.read_metadata(saved)["phases"] == phases
  with pytest.raises(ValueError, match="phases: checkpoint"):
    manager.Checkpointer(saved, keep=2, metadata=METADATA)


def test_the_latest_step_is_read_without_metadata(saved, tmp_path):
  assert manager.latest_step(saved) == 10
  assert manager.latest_step(tmp_path / "none") is None


def test_other_shapes_are_an_error_that_lists_them(saved):
  checkpointer = manager.Checkpointer(saved, keep=2, metadata=METADATA)
  abstract = _abstract(_state(0))
  wider = jax.ShapeDtypeStruct((16, 9), jnp.float32)
  abstract.params["embedding"] = wider
  with pytest.raises(ValueError) as error:
    checkpointer.restore(abstract)
  expected = "params/embedding: checkpoint float32 [16, 8], expected "
  assert expected + "float32 [16, 9]" in str(error.value)
  assert "scale" not in str(error.value)


def test_state_of_another_optimizer_is_an_error(saved):
  checkpointer = manager.Checkpointer(saved, keep=2, metadata=METADATA)
  state = _state(0)
  opt_state = optax.sgd(1e-3, momentum=0.9).init(state.params)
  with pytest.raises(ValueError, match="rest/opt_state/0/trace/embedding"):
    checkpointer.restore(
      _abstract(dataclasses.replace(state, opt_state=opt_state))
    )


def test_params_alone_come_back_from_another_job(saved):
  params = _state(10).params
  restored = manager.restore_params(
    saved, _abstract(params), metadata={"tokenizer": "3fa9"}
  )
  _assert_equal(restored, params)
  assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]


def test_params_of_another_tokenizer_or_entry_are_an_error(saved):
  abstract = _abstract(_state(0).params)
  for metadata in ({"tokenizer": "77ab"}, {"corpus": "x"}):
    with pytest.raises(ValueError, match="expected"):
      manager.restore_params(saved, abstract, metadata=metadata)
  abstract["embedding"] = jax.ShapeDtypeStruct((2, 2), jnp.float32)
  with pytest.raises(ValueError, match=r"embedding: checkpoint .*16, 8"):
    manager.restore_params(saved, abstract, metadata={})


def test_metadata_comes_back_as_json(saved):
  assert manager.read_metadata(saved) == {
    "model": {"d_model": 8, "betas": [0.9, 0.95]},
    "tokenizer": "3fa9",
  }


@pytest.mark.parametrize("make", [True, False])
def test_directory_without_checkpoint_is_an_error_with_the_next_action(
  tmp_path, make
):
  directory = tmp_path / "checkpoints"
  if make:
    directory.mkdir()
  for read in (
    manager.read_metadata,
    lambda path: manager.restore_params(path, {}, metadata={}),
  ):
    with pytest.raises(FileNotFoundError, match="run the job"):
      read(directory)
  assert directory.exists() == make
  checkpointer = manager.Checkpointer(directory, keep=1, metadata={})
  assert checkpointer.latest_step() is None
  with pytest.raises(FileNotFoundError, match="create an initial state"):
    checkpointer.restore(_abstract(_state(0)))


def test_keeping_nothing_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="keep 0"):
    manager.Checkpointer(tmp_path, keep=0, metadata={})


KILLED_WHILE_SAVING = """
import os, signal, sys
import manager_test
from mlm.checkpoints import manager

checkpointer = manager.Checkpointer(sys.argv[1], keep=3, metadata={})
checkpointer.save(1, manager_test.large_state(1))
checkpointer.wait()
checkpointer.save(2, manager_test.large_state(2))
os.kill(os.getpid(), signal.SIGKILL)
"""


def large_state(step):
  """64 MiB that do not compress: saving them takes far longer than a call."""
  values = np.random.default_rng(step).random((16, 1 << 20), np.float32)
  return State(jnp.int32(step), {"w": jnp.asarray(values)}, ())


def test_process_killed_while_saving_leaves_the_earlier_checkpoint(tmp_path):
  here = pathlib.Path(__file__).parent
  killed = subprocess.run(
    [sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path],
    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(here)])},
    capture_output=True,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
  left = sorted(p.name for p in tmp_path.iterdir())
  assert left[0] == "1" and left[1].startswith("2.")  # it was under way
  expected = large_state(1)
  params = manager.restore_params(
    tmp_path, _abstract(expected.params), metadata={}
  )
  _assert_equal(params, expected.params)
  checkpointer = manager.Checkpointer(tmp_path, keep=3, metadata={})
  assert checkpointer.latest_step() == 1
  _assert_equal(checkpointer.restore(_abstract(expected)), expected)
  checkpointer.save(3, expected)
  checkpointer.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3"]
