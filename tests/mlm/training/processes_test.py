"""Real processes on this host: they train as one, stop as one, start again."""

import json
import pathlib
import signal
import time

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mlm.checkpoints import manager
from tests import several_processes

FOLDER = pathlib.Path(__file__).parent
NUM_STEPS = 11
DATA = '{"data": 2}'


def _trained(output, *kill, mesh_shape=DATA, num_devices=1):
  """Exit status and output of each of two processes."""
  return several_processes.run(
    lambda number: [FOLDER / "run_to_kill.py", output, mesh_shape, *kill],
    num_processes=2,
    num_devices=num_devices,
  )


def _params(output):
  """Of the last checkpoint, read by this one process."""
  directory = output / "checkpoints"
  with manager.ocp.StandardCheckpointer() as reader:
    path = directory / str(manager.latest_step(directory)) / "params"
    found = reader.metadata(path.absolute()).item_metadata.tree
  device = SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), found
  )
  return manager.restore_params(directory, abstract, metadata={})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  output = tmp_path_factory.mktemp("undisturbed")
  for status, text in _trained(output):
    assert status == 0, text
  return output


@pytest.mark.slow
@pytest.mark.parametrize(
  "family, mesh_shape, num_processes",
  [
    ("decoder", {"data": 2, "fsdp": 2, "tensor": 2}, 2),
    ("decoder", {"sequence": 8}, 2),
    ("moe", {"expert": 4, "tensor": 2}, 2),
    ("encoder_decoder", {"fsdp": 4, "sequence": 2}, 2),
    ("decoder", {"data": 2, "fsdp": 2, "tensor": 2}, 4),
    ("moe", {"fsdp": 2, "expert": 2, "sequence": 2}, 4),
  ],
  ids=str,
)
def test_processes_train_eight_devices_as_one(
  tmp_path, family, mesh_shape, num_processes
):
  """The first axis crosses processes. Sums in another order: 1e-5."""
  script = FOLDER / "train_on_mesh.py"
  sizes = json.dumps(mesh_shape)
  done = several_processes.run(
    lambda number: [script, family, sizes, tmp_path / str(number)],
    num_processes=num_processes,
    num_devices=8 // num_processes,
  )
  for status, text in done:
    assert status == 0, text
  found = [
    json.loads((tmp_path / str(n)).read_text()) for n in range(num_processes)
  ]
  assert all(of == found[0] for of in found)
  job = several_processes.load(script)
  want = job.train(family, job.mesh_of(**mesh_shape))
  np.testing.assert_allclose(found[0], want, rtol=1e-5)


def test_sigterm_to_one_of_two_stops_both_at_the_same_saved_step(
  tmp_path, undisturbed
):
  done = _trained(tmp_path, 3, int(signal.SIGTERM), 1)
  for status, text in done:
    assert status == 128 + signal.SIGTERM, text
  step = manager.latest_step(tmp_path / "checkpoints")
  assert 3 < step < NUM_STEPS
  saved = [f"SIGTERM: saved step {step} of {NUM_STEPS}" in t for _, t in done]
  assert any(saved)
  # Another number of processes goes on: one, of two devices.
  job = several_processes.load(FOLDER / "run_to_kill.py")
  steps = []
  job.train(tmp_path, before_batch=steps.append, mesh_shape={"data": 2})
  assert steps == list(range(step, NUM_STEPS))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
    _params(tmp_path),
    _params(undisturbed),
  )


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_and_all_start_again(
  tmp_path, undisturbed, lost
):
  """Process 0 serves the others; they notice its death in another way."""
  started = time.monotonic()
  done = _trained(tmp_path, 6, int(signal.SIGKILL), lost)
  assert done[lost][0] == -signal.SIGKILL
  status, text = done[1 - lost]
  assert status not in (0, -signal.SIGKILL)
  assert "start all again" in text or "JAX distributed service" in text, text
  print(f"both ended after {time.monotonic() - started:.0f} s")
  made = manager.latest_step(tmp_path / "checkpoints")
  assert made == 4
  for status, text in _trained(tmp_path):
    assert status == 0, text
  jax.tree.map(
    np.testing.assert_array_equal, _params(tmp_path), _params(undisturbed)
  )
  lines = [
    json.loads(line)["loss"]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert lines == [
    json.loads(line)["loss"]
    for line in (undisturbed / "metrics.jsonl").read_text().splitlines()
  ]
