"""Pretraining killed, resumed with other rates, and spread over processes."""

import json
import pathlib

import numpy as np
import pytest

from mlm.checkpoints import manager
from mlm.data import indexed
from mlm.data import schedule as schedule_lib
from tests import several_processes

SCRIPT = pathlib.Path(__file__).with_name("small_pretrain.py")
MESH = {"data": 4, "fsdp": 2, "tensor": 1}

job = several_processes.load(SCRIPT)
EARLY, LATE = job.shares(0.4, 0.3, 0.2, 0.1), job.shares(0.1, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pretrain")
  job.make_data(folder)
  return folder


def _run(data, output, phases, *, killed_at=None):
  """Step -> batch that was made for it; the run dies when it asks for one."""
  batch_function, made = indexed.batch_function, {}

  def recording(**kwargs):
    batch = batch_function(**kwargs)

    def make(step):
      if step == killed_at:
        raise KeyboardInterrupt
      made[step] = batch(step)
      return made[step]

    return make

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(indexed, "batch_function", recording)
    if killed_at is None:
      job.pretrain(data, output, phases=phases, mesh_shape=MESH)
    else:
      with pytest.raises(KeyboardInterrupt):
        job.pretrain(data, output, phases=phases, mesh_shape=MESH)
  return made


def _losses(output):
  lines = (output / "metrics.jsonl").read_text().splitlines()
  return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
  output = tmp_path_factory.mktemp("uninterrupted")
  return _run(data, output, [(0, EARLY), (4, LATE)]), _losses(output), output


def _equal(a, b):
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_killed_run_goes_on_with_a_phase_that_it_did_not_have(
  data, uninterrupted, tmp_path, capsys
):
  batches, losses, _ = uninterrupted
  before = _run(data, tmp_path, [(0, EARLY)], killed_at=3)
  made = manager.latest_step(tmp_path / "checkpoints")
  assert made is not None and 0 < made <= 3
  capsys.readouterr()
  after = _run(data, tmp_path, [(0, EARLY), (4, LATE)])
  assert f"Resuming from step {made} of 6" in capsys.readouterr().out
  assert after.keys() == set(range(made, 6))
  for step in range(3):
    _equal(before[step], batches[step])
  for step, batch in after.items():
    _equal(batch, batches[step])
  assert _losses(tmp_path) == losses
  with pytest.raises(ValueError, match=r"now they are to be from \[0\]"):
    _run(data, tmp_path, [(0, EARLY)])
  with pytest.raises(ValueError, match="has begun with other rates: eng_Latn"):
    _run(data, tmp_path, [(0, LATE), (4, LATE)])


def test_batches_before_a_change_are_those_without_it(data, uninterrupted):
  batches, _, output = uninterrupted
  metadata = manager.read_metadata(output / "checkpoints")
  assert [p["start_step"] for p in metadata["phases"]] == [0, 4]
  streams = {
    f"mc4.{code}": indexed.token_stream.TokenStream(
      str(data / "tokens"),
      f"mc4.{code}",
      "train",
      metadata["tokenizer_sha256"],
    )
    for code in job.LANGUAGES
  }
  rates = {
    f"mc4.{code}": rate for code, rate in metadata["phases"][0]["rates"].items()
  }
  alone = indexed.batch_function(
    streams=streams,
    schedule=schedule_lib.Schedule(
      [schedule_lib.Phase(0, rates)], batch_size=job.BATCH_SIZE, seed=3
    ),
    objective=indexed.objectives.causal(length=job.LENGTH),
    seed=3,
    places=range(job.BATCH_SIZE),
  )
  for step in range(4):
    _equal(batches[step], alone(step))
  with pytest.raises(AssertionError):
    _equal(batches[4], alone(4))


def test_the_plan_says_what_is_drawn_and_what_is_real(uninterrupted):
  _, _, output = uninterrupted
  plan = json.loads((output / "mixture.json").read_text())
  assert [p["start_step"] for p in plan["phases"]] == [0, 4]
  rows = {row["language"]: row for row in plan["rows"]}
  assert rows["eng_Latn"]["rate"] == pytest.approx((0.4 * 4 + 0.1 * 2) / 6)
  tokens = sum(row["expected_tokens"] for row in rows.values())
  assert tokens == pytest.approx(6 * job.BATCH_SIZE * job.LENGTH)
  full = dict.fromkeys(job.LANGUAGES, 1.0)
  assert plan["real"] == {"decoder_target_tokens": pytest.approx(full)}


@pytest.mark.parametrize(
  "axis", ["data", pytest.param("tensor", marks=pytest.mark.slow)]
)
def test_two_processes_train_as_one(data, uninterrupted, tmp_path, axis):
  """On the data axis each makes half the rows, on the tensor axis all.

  Float32 sums in another order: 1e-5 relative.
  """
  mesh = json.dumps({"data": 1, "fsdp": 1, "tensor": 1, axis: 2})
  done = several_processes.run(
    lambda number: [SCRIPT, data, tmp_path, mesh],
    num_processes=2,
    num_devices=1,
  )
  for status, text in done:
    assert status == 0, text
  losses, expected = _losses(tmp_path), uninterrupted[1]
  for step in range(4):  # those of the first phase
    assert losses[step] == pytest.approx(expected[step], rel=1e-5)


@pytest.mark.slow
def test_the_launcher_joins_processes_and_the_first_writes(data, tmp_path):
  done = several_processes.run(
    lambda number: [
      *("-m", "mlm.run", "pretrain", "--distributed"),
      "--gin_file=gin/experiments/quickstart/pretrain.gin",
      "--gin_file=gin/overlays/tiny/pretrain.gin",
      f"--gin.TOKENS={data / 'tokens'}",
      f"--gin.TOKENIZER={data / 'tokenizer'}",
      f"--gin.OUTPUT={tmp_path}",
      "--gin.MESH_SHAPE={'data': 2, 'fsdp': 1, 'tensor': 1}",
      "--gin.pretrain.pretrain.keep_period=1",
    ],
    num_processes=2,
    num_devices=1,
  )
  for status, text in done:
    assert status == 0, text
  config = (tmp_path / "config.gin").read_text()
  assert "'data': 2" in config
  metadata = manager.read_metadata(tmp_path / "checkpoints")
  assert metadata["config"] == config
  assert metadata["seed"] == 0
  last = manager.latest_step(tmp_path / "checkpoints")
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line)["step"] for line in lines]
  assert steps == sorted(set(steps)) and steps[-1] == last - 1
  assert not list(tmp_path.glob("error*"))
