"""Terms of a step's time against cases worked out by hand."""

import pytest

from mlm.models import counting
from mlm.planning import chips, published, roofline
from tests.mlm.planning import cases

# D 1024, F 4096, L 8, V 32768, 8 heads of 128: a layer has 4 D D + 3 D F.
LAYERS = 8 * (4 * 1024**2 + 3 * 1024 * 4096)
TABLE = 32768 * 1024
NORMS = 17 * 1024


def test_chips_are_of_their_topologies_and_unknown_ones_are_refused():
  assert chips.of_topology("v5p:8x8x16") is chips.V5P
  assert chips.num_chips("v6e:16x16") == 256
  for wrong in ("v5p", "v5p:8x8", "trillium:16x16", "v6e:16xa"):
    with pytest.raises(ValueError, match="such as|needs"):
      chips.of_topology(wrong)


def test_an_axis_has_two_links_for_each_ring_that_it_fills():
  link = chips.V5P.link_bandwidth
  both = roofline.axis_bandwidths(cases.run())
  assert both == {"tensor": 2 * link, "fsdp": 4 * link}
  all_three = roofline.axis_bandwidths(cases.run(mesh={"fsdp": 64}))
  assert all_three == {"fsdp": 6 * link}


def test_an_axis_without_whole_dimensions_has_one_link_and_so_has_an_open_one():
  link = chips.V5P.link_bandwidth
  split = roofline.axis_bandwidths(cases.run(mesh={"fsdp": 32, "tensor": 2}))
  assert split == {"tensor": link, "fsdp": link}
  short = cases.run(topology="v5p:2x2x4", mesh={"fsdp": 4, "tensor": 4})
  assert roofline.axis_bandwidths(short) == {
    "fsdp": 2 * link,
    "tensor": 2 * link,
  }


def test_two_devices_of_a_chip_share_its_links():
  run = cases.run(topology="tpu7x:4x4x4", mesh={"fsdp": 32, "tensor": 4})
  half = chips.TPU7X.link_bandwidth / 2
  assert roofline.axis_bandwidths(run) == {"tensor": 2 * half, "fsdp": 4 * half}


def test_compute_of_a_dense_step():
  """6 a weight; 2 again but for down; attention 2 + 2 + 5; head 8 V D."""
  attention = 8 * 1024 * 2048
  down = 8 * 1024 * 4096
  flops = 6 * LAYERS + 2 * (LAYERS - down) + 9 * attention + 8 * TABLE
  step = roofline.of_run(cases.run())
  tokens = 64 * 2048
  assert step.compute == pytest.approx(tokens * flops / (64 * 4.59e14))


def test_collectives_of_a_dense_step():
  """Weights split over 4 of tensor are gathered twice over 16 and summed once;
  X is 4 rows of 2,048 tokens of 1,024 bfloat16."""
  step = roofline.of_run(cases.run())
  gathered = (LAYERS + 2 * TABLE) / 4 + NORMS
  fsdp = 3 * 2 * gathered * 15 / 16 / (4 * 9e10)
  assert step.fsdp == pytest.approx(fsdp, rel=1e-3)
  X = 4 * 2048 * 1024 * 2
  assert step.tensor == pytest.approx(12 * 8 * X * 3 / 4 / (2 * 9e10))
  assert step.expert == step.dcn == 0
  assert step.floor == max(step.compute, step.hbm, step.fsdp, step.tensor)
  assert step.estimate == pytest.approx(step.compute + step.tensor)


def test_memory_traffic_of_a_dense_step():
  step = roofline.of_run(cases.run())
  gathered = (LAYERS + 2 * TABLE) / 4 + NORMS
  X = 4 * 2048 * 1024 * 2
  num_bytes = 32 * gathered / 16 + 12 * gathered + 4 * 8 * X * (6 + 6 * 4 / 4)
  assert step.hbm == pytest.approx(num_bytes / 2.765e12, rel=1e-3)


def test_experts_gather_rows_and_scatter_sums_in_each_pass():
  """X is one row: 4 devices along expert get 3 from others, six times a layer."""
  run = cases.run(cases.config(experts=(16, 2)), mesh={"fsdp": 16, "expert": 4})
  X = 2048 * 1024 * 2
  expected = 6 * 8 * X * 3 / (2 * 9e10)
  assert roofline.of_run(run).expert == pytest.approx(expected)


def test_slices_sum_gradients_over_the_network_between_them():
  run = cases.run(
    num_slices=2, mesh={"data": 2, "fsdp": 16, "tensor": 4}, batch_size=128
  )
  of_device = ((LAYERS + 2 * TABLE) / 4 + NORMS) / 16
  expected = 2 * 4 * of_device / 2 / 6.25e9
  assert roofline.of_run(run).dcn == pytest.approx(expected, rel=1e-3)
  assert roofline.of_run(run).compute == roofline.of_run(cases.run()).compute


def test_utilization_counts_no_recomputation():
  run = cases.run()
  training = counting.training_flops_per_token(run.model, 2048) * run.tokens
  seconds = training / (64 * 4.59e14)
  assert roofline.model_flops_utilization(run, seconds) == pytest.approx(1)


def test_a_run_must_fill_its_topology_and_divide_its_batch():
  with pytest.raises(ValueError, match="has 32 devices, 1 x v5p:4x4x4 has 64"):
    cases.run(mesh={"fsdp": 32})
  with pytest.raises(ValueError, match="60 rows are not divisible by 16"):
    cases.run(batch_size=60)
  with pytest.raises(ValueError, match="3 slices need a data axis"):
    cases.run(num_slices=3, mesh={"fsdp": 48, "tensor": 4})


def test_published_runs_are_never_faster_than_the_floor():
  """And v5p's tokens/s give its published MFU by our count of FLOPs."""
  found = published.comparisons()
  assert all(one.published_seconds > one.step.floor for one in found)
  llama = next(one for one in found if one.run.name == "Llama 2 70B, 512 v5p")
  ours = roofline.model_flops_utilization(llama.run, llama.published_seconds)
  assert ours == pytest.approx(llama.mfu, rel=0.02)
  assert published.calibration("v5p", is_mixture=False) == llama.ratio
  assert published.calibration("tpu7x", is_mixture=False) == llama.ratio
