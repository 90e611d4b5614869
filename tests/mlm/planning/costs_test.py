"""Days, dollars and storage of a budget, by hand."""

import pytest

from mlm.planning import costs, roofline
from tests.mlm.planning import cases

GIVEN = {
  "dated": "2026-11-29",
  "prices": {"v5p": 4.0},
  "mfu": 0.4,
  "goodput": 0.5,
  "host_write_bandwidth": 1e9,
  "text_bytes_per_token": 4.0,
  "corpus_dollars": 0.0,
  "corpus_hours": 0.0,
}


def test_cost_of_a_thousand_steps():
  """131,072 tokens a step, 10 s each, half of the time good, 64 chips."""
  run, given = cases.run(), costs.Assumptions(**GIVEN)
  cost = costs.of_budget(run, 131_072_000, 10.0, given)
  assert cost.steps == 1000
  assert cost.days == pytest.approx(20_000 / 86_400)
  assert cost.chip_hours == pytest.approx(20_000 / 3600 * 64)
  assert cost.dollars == pytest.approx(4 * cost.chip_hours)
  assert cost.tokens_per_second == pytest.approx(13_107.2)


def test_seconds_at_a_utilization_invert_it():
  run = cases.run()
  seconds = costs.seconds_at(run, 0.4)
  assert roofline.model_flops_utilization(run, seconds) == pytest.approx(0.4)


def test_storage_of_a_run():
  """12 bytes a param over 16 hosts of 4 chips; int32 tokens."""
  run, given = cases.run(), costs.Assumptions(**GIVEN)
  needs = costs.storage(run, 1e9, 2.0, given)
  params = 8 * (4 * 1024**2 + 3 * 1024 * 4096) + 2 * 32768 * 1024 + 17 * 1024
  assert needs.num_hosts == 16
  assert needs.checkpoint_bytes == 12 * params
  assert needs.save_seconds == pytest.approx(12 * params / 16 / 1e9)
  assert needs.host_bytes == pytest.approx(
    12 * params / 16 + 4 * 6 * 4 * 131_072 / 16
  )
  assert needs.cached_tokens_bytes == needs.text_bytes == 4e9
  assert needs.read_bandwidth == 4 * 131_072 / 2


def test_what_is_missing_or_out_of_range_is_refused():
  given = costs.Assumptions(**{**GIVEN, "prices": {"v6e": 1.0}})
  with pytest.raises(ValueError, match="no price for v5p"):
    costs.of_budget(cases.run(), 1e9, 1.0, given)
  with pytest.raises(ValueError, match="mfu 40"):
    costs.Assumptions(**{**GIVEN, "mfu": 40})
