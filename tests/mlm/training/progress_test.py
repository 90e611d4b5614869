import math

import pytest

from mlm.training import progress

LINE = {
  "step": 19,
  "seconds": 4.0,
  "tokens": 6000.0,
  "tokens_by_language": {"swh_Latn": 4000.0, "hin_Deva": 2000.0},
  "loss_by_language": {"swh_Latn": math.log(8), "hin_Deva": math.log(2)},
}


def test_rates_are_over_all_the_time_and_the_share_of_the_peak():
  describe = progress.throughput(
    flops_per_step=3e12, peak_flops_per_second=6e13
  )
  assert describe(LINE, 10) == {
    "tokens_per_second": 1500.0,
    "model_flops_per_second": 7.5e12,
    "mfu": 0.125,
  }
  describe = progress.throughput(flops_per_step=1, peak_flops_per_second=None)
  assert "mfu" not in describe(LINE, 10)


def test_bits_of_a_byte_are_those_of_its_share_of_a_token():
  """3 bits a token of 6 bytes, 1 bit a token of 4; none of no known size."""
  describe = progress.bits_per_byte({"swh_Latn": 6.0, "hin_Deva": 4.0})
  assert describe(LINE, 10)["bits_per_byte_by_language"] == pytest.approx(
    {"swh_Latn": 0.5, "hin_Deva": 0.25}
  )
  assert progress.bits_per_byte({})(LINE, 10) == {
    "bits_per_byte_by_language": {}
  }


def test_epochs_go_on_from_the_lines_before():
  available = {"swh_Latn": 1000, "hin_Deva": 8000, "zho_Hani": 10}
  describe = progress.epochs(tokens_available=available, before=[LINE])
  assert describe(LINE, 10)["epochs_by_language"] == {
    "hin_Deva": 0.5,
    "swh_Latn": 8.0,
  }
  fresh = progress.epochs(tokens_available=available, before=[])
  assert fresh(LINE, 10)["epochs_by_language"]["swh_Latn"] == 4.0
  assert fresh(LINE, 10)["epochs_by_language"]["swh_Latn"] == 8.0


def test_together_says_all():
  describe = progress.together(
    progress.nothing,
    progress.throughput(flops_per_step=1, peak_flops_per_second=None),
    progress.bits_per_byte({}),
  )
  assert set(describe(LINE, 1)) == {
    "tokens_per_second",
    "model_flops_per_second",
    "bits_per_byte_by_language",
  }
