"""Predicted memory: its parts by hand, and beside what was compiled."""

import dataclasses
import pathlib

import pytest

from mlm.models import counting, decoder
from mlm.planning import compiled, memory, runs
from tests.mlm.planning import cases

ROOT = pathlib.Path(__file__).parents[3]
RESULTS = ROOT / "docs/results/2026-11-29_plan_200b/compiled"


def test_parts_of_a_dense_step():
  run = cases.run()
  of = memory.of_run(run)
  params = counting.num_params(run.model)
  norms = 17 * 1024 / 16  # split over fsdp alone
  on_device = (params - 17 * 1024) / 64 + norms
  matrices = 8 * (4 * 1024**2 + 3 * 1024 * 4096) / 64 + 16 * 1024 / 16
  X = 4 * 2048 * 1024 * 2
  assert of.state == 12 * on_device
  assert of.gradients == 4 * matrices
  assert of.head == X + 2 * 32768 * 1024 / 4
  assert of.kept == 8 * X / 4
  assert of.working == 4 * X + 6 * X + 2 * (3 * 1024 * 4096 * 2 / 4)
  assert of.logits == 0
  assert of.tables == (4 + 4 + 2) * 32768 * 1024 / 4
  assert of.layers == of.head + of.kept + of.working > of.tables
  assert of.peak == of.state + of.gradients + of.layers


def test_a_whole_vocabulary_on_every_device_is_the_peak_of_few_tokens():
  of = memory.of_run(cases.run(mesh={"fsdp": 64}, sequence_length=128))
  assert of.tables == 10 * 32768 * 1024 > of.layers
  assert of.peak == of.state + of.gradients + of.tables


def test_more_tensor_shards_keep_less_and_more_rows_keep_more():
  wide = memory.of_run(cases.run(mesh={"fsdp": 8, "tensor": 8}))
  narrow = memory.of_run(cases.run())
  assert wide.kept == narrow.kept  # twice the rows a device, half of each
  more = memory.of_run(cases.run(batch_size=128))
  assert more.kept == 2 * narrow.kept and more.state == narrow.state


def test_what_does_not_divide_is_named():
  run = cases.run(cases.config(num_kv_heads=2))
  with pytest.raises(ValueError, match="kv_heads = 2 is not divisible"):
    memory.of_run(run)
  with pytest.raises(ValueError, match="remat 'minimal'"):
    memory.of_run(cases.run(cases.config(remat="minimal")))


def _run(one):
  fields = {f.name for f in dataclasses.fields(runs.Run)}
  shared = {k: v for k, v in dataclasses.asdict(one).items() if k in fields}
  model = decoder.DecoderConfig(**one.model)
  return runs.Run(**{**shared, "model": model}, num_slices=1)


@pytest.mark.parametrize(
  "one", compiled.read_all(str(RESULTS)), ids=lambda one: one.name
)
def test_predictions_are_within_a_tenth_of_the_compiled_peaks(one):
  """And the state is what the compiler has as arguments, but for the batch and
  for tiles: 12 rows of a matrix split over 1,024 fill none of 8 (1.1 %)."""
  predicted = memory.of_run(_run(one))
  if not one.is_accepted:
    assert one.needed_bytes > one.available_bytes
    return
  assert predicted.state == pytest.approx(one.arguments_bytes, rel=0.015)
  assert predicted.peak == pytest.approx(one.peak_bytes, rel=0.1)


@pytest.mark.parametrize(
  "one", compiled.read_all(str(RESULTS)), ids=lambda one: one.name
)
def test_flops_of_the_traced_tpu_steps_are_those_of_the_closed_form(one):
  """But for what kernels estimate of themselves.

  Splash attention's passes (2 forward, 2 again, 5 backward) count the whole
  square, of which the closed form has half; megablox counts every row on each
  of the devices along expert: 6 + 2 for each weight of a token's experts.
  """
  run = _run(one)
  config, length = run.model, run.sequence_length
  width = config.num_layers * config.num_heads * config.head_dim
  expected = counting.executed_flops_per_token(config, length)
  expected += 9 * width * length
  if config.moe is not None:
    experts = (
      config.moe.num_experts_per_token * 3 * config.d_model * config.d_ff
    )
    expected += (run.size("expert") - 1) * 8 * config.num_layers * experts
  assert sum(one.flops.values()) == pytest.approx(
    run.tokens * expected, rel=0.01
  )
