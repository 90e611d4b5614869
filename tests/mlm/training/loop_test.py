import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from mlm.training import ledger, loop, metrics, progress

SCRIPT = pathlib.Path(__file__).with_name("run_to_kill.py")
ROOT = pathlib.Path(__file__).parents[3]


def _load():
  spec = importlib.util.spec_from_file_location("run_to_kill", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


job = _load()


def _assert_equal(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


def _lines(output):
  """Metric lines without their durations, which differ from run to run."""
  records = metrics.read(output / "metrics.jsonl")
  for record in records:
    parts = [record.pop(f"{part}_seconds") for part in ledger.PARTS]
    assert 0 <= sum(parts) < record.pop("seconds")
  return records


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  output = tmp_path_factory.mktemp("uninterrupted")
  return job.train(output), _lines(output)


def test_lines_cover_every_step_once_and_hold_what_the_contract_says(
  uninterrupted,
):
  state, lines = uninterrupted
  assert int(state.step) == 11
  assert [line["step"] for line in lines] == [1, 3, 5, 7, 9, 10]
  assert set(lines[0]) == {
    "step",
    "loss",
    "z_loss",
    "loss_weight",
    "tokens",
    "loss_by_language",
    "tokens_by_language",
    "grad_norm",
    "learning_rate",
  }
  tiny = job._tiny()
  for step, line in zip([1, 3, 5, 7, 9], lines):
    weights = [
      tiny._batch(s)["decoder_loss_weights"].sum() for s in (step - 1, step)
    ]
    assert line["tokens"] == sum(weights)
    assert sum(line["tokens_by_language"].values()) == sum(weights)
    assert set(line["loss_by_language"]) == {"swh_Latn", "hin_Deva", "zho_Hani"}
  # Mean of the warm-up's 1/3 and 2/3 of the peak.
  assert lines[0]["learning_rate"] == pytest.approx(1e-2 / 2)


@pytest.mark.parametrize("signal_at", [2, 5])
def test_sigterm_saves_and_the_resumed_run_is_the_uninterrupted_one(
  tmp_path, uninterrupted, signal_at
):
  def terminate(step):
    if step == signal_at:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(SystemExit) as stopped:
    job.train(tmp_path, before_batch=terminate)
  assert stopped.value.code == 143
  assert (tmp_path / "checkpoints" / str(signal_at + 1)).is_dir()
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  steps = []
  state = job.train(tmp_path, before_batch=steps.append)
  assert steps == list(range(signal_at + 1, 11))
  _assert_equal(state, uninterrupted[0])
  if signal_at % 2:
    assert _lines(tmp_path) == uninterrupted[1]
  else:  # the window of the signal is written in two parts
    assert sum(line["tokens"] for line in _lines(tmp_path)) == sum(
      line["tokens"] for line in uninterrupted[1]
    )


def _killed(output, step, mesh_shape="{}"):
  """Runs, or resumes, until SIGKILL ends it while it prepares a step."""
  command = [sys.executable, SCRIPT, output, mesh_shape]
  killed = subprocess.run(
    [*command, str(step), str(int(signal.SIGKILL)), "0"],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def test_killed_run_started_again_is_the_uninterrupted_one(
  tmp_path, uninterrupted
):
  _killed(tmp_path, 6)
  _killed(tmp_path, 10)
  assert [line["step"] for line in _lines(tmp_path)][:4] == [1, 3, 5, 7]
  steps = []
  state = job.train(tmp_path, before_batch=steps.append)
  assert steps[0] in (4, 8)  # the save of step 8 may not have ended
  _assert_equal(state, uninterrupted[0])
  assert _lines(tmp_path) == uninterrupted[1]


@pytest.mark.slow
def test_run_killed_at_ten_random_steps_is_the_uninterrupted_one(
  tmp_path, uninterrupted
):
  """In order: a run never asks again for what its checkpoint has."""
  for step in sorted(np.random.default_rng(0).integers(0, 11, 10)):
    _killed(tmp_path, step)
  _assert_equal(job.train(tmp_path), uninterrupted[0])
  assert _lines(tmp_path) == uninterrupted[1]


@pytest.mark.slow
def test_run_killed_and_resumed_on_other_meshes_is_the_uninterrupted_one(
  tmp_path, uninterrupted
):
  """Float32 sums in another order: the params differ by 1e-6 of their norm."""
  for step, mesh_shape in ((5, '{"fsdp": 8}'), (9, '{"data": 2, "tensor": 4}')):
    _killed(tmp_path, step, mesh_shape)
  state = job.train(tmp_path, mesh_shape={"fsdp": 2, "sequence": 2})
  expected = uninterrupted[0].params
  difference = jax.tree.map(
    lambda x, y: np.asarray(x) - np.asarray(y), state.params, expected
  )
  norm = optax.global_norm(jax.device_get(expected))
  assert optax.global_norm(difference) < 1e-6 * norm


def _files(output):
  """What a run wrote beside its checkpoints."""
  paths = [*output.glob("*.jsonl"), *(output / "tensorboard").iterdir()]
  return {path: path.read_bytes() for path in paths}


def test_finished_run_started_again_trains_no_more(tmp_path, uninterrupted):
  job.train(tmp_path)
  before = _files(tmp_path)
  steps = []
  state = job.train(tmp_path, before_batch=steps.append)
  assert steps == []
  _assert_equal(state, uninterrupted[0])
  assert _files(tmp_path) == before
  kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert kept == [8, 11]


def test_checkpoint_of_one_mesh_continues_on_another(tmp_path, uninterrupted):
  job.train(tmp_path, num_steps=4)
  state = job.train(tmp_path, mesh_shape={"data": 2, "fsdp": 2, "tensor": 2})
  # Another order of summation; what Adam divides by is of the same order.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    state,
    uninterrupted[0],
  )


@pytest.mark.parametrize("bad_step", [5, 6])
def test_loss_that_is_not_finite_stops_the_run_unsaved(tmp_path, bad_step):
  with pytest.raises(FloatingPointError, match=f"of step {bad_step} is not"):
    job.train(
      tmp_path,
      loss_scale=lambda step: np.nan if step == bad_step else 1.0,
    )
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]
  assert [line["step"] for line in _lines(tmp_path)][-1] < bad_step
  folder = tmp_path / f"stopped_at_{bad_step}"
  with np.load(folder / "batch_0.npz") as kept:
    expected = job._tiny()._batch(bad_step)
    for name, array in expected.items():
      np.testing.assert_array_equal(kept[name], array)
  by_step = metrics.read(folder / "metrics.jsonl")
  assert [line["step"] for line in by_step] == [
    bad_step // 2 * 2,
    bad_step // 2 * 2 + 1,
  ]
  losses = {line["step"]: line["loss"] for line in by_step}
  assert losses[bad_step] is None
  assert losses.get(bad_step - 1, 1) is not None


def test_batch_that_does_not_divide_the_mesh_reaches_the_user(tmp_path):
  with pytest.raises(ValueError, match="6"):
    job.train(tmp_path, batch_size=6, mesh_shape={"data": 4, "fsdp": 2})


def test_periods_that_would_cut_a_line_in_two_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="checkpoint_period 3 .* log_period 2"):
    job.train(tmp_path, checkpoint_period=3)


def test_fewer_steps_than_were_made_is_an_error(tmp_path):
  job.train(tmp_path, num_steps=4)
  with pytest.raises(ValueError, match="step 4, beyond num_steps 3"):
    job.train(tmp_path, num_steps=3)


def test_source_sees_the_current_params_and_a_host_step(tmp_path):
  """As the RLOO source needs it: params after every update so far."""

  class Recorder:
    def save(self, step, state):
      self.saved = step

    def wait(self):
      pass

  @jax.jit
  def step_fn(state, frozen, batch, seed):
    params = state.params + batch["increment"].sum() + frozen
    one = jax.numpy.float32(1)
    state = loop.TrainState(state.step + 1, params, state.opt_state)
    return state, {"loss": (params, one), "grad_norm": (one, one)}

  seen = []

  def batch_source(state):
    assert isinstance(state.step, np.integer)
    seen.append((int(state.step), float(state.params)))
    return {"increment": np.asarray([state.params])}

  zero = jax.numpy.float32(0)
  recorder = Recorder()
  loop.train(
    state=loop.TrainState(jax.numpy.int32(0), zero, ()),
    batch_source=batch_source,
    place=lambda batch: batch,
    step_fn=step_fn,
    frozen=jax.numpy.float32(1),
    num_steps=4,
    seed=0,
    checkpointer=recorder,
    checkpoint_period=10,
    log_period=1,
    output=tmp_path,
    language_codes=(),
    describe=progress.nothing,
  )
  assert seen == [(0, 0), (1, 1), (2, 3), (3, 7)]
  assert recorder.saved == 4
  assert [line["loss"] for line in _lines(tmp_path)] == [1, 3, 7, 15]


def test_ledger_follows_a_run_that_was_killed(tmp_path):
  _killed(tmp_path, 7)
  job.train(tmp_path)
  events = ledger.read(tmp_path)
  first, second = [e["step"] for e in events if e["event"] == "ready"]
  assert first == 0 and second in (0, 4)  # the save may not have ended
  windows = [e["step"] for e in events if e["event"] == "window"]
  assert windows[:3] == [1, 3, 5]
  again = [step for step in (1, 3, 5, 7, 9, 10) if step >= second]
  assert windows[-len(again) :] == again
  found = ledger.summarize(events)
  parts = {k: v for k, v in found.items() if k not in ("total", "goodput")}
  assert found["total"] == pytest.approx(sum(parts.values()))
  assert found["lost"] > 0
