import json

import numpy as np
import pytest

from mlm.training import metrics

CODES = ("swh_Latn", "hin_Deva", "zho_Hani", "arb_Arab")


def test_ratios_are_of_sums_and_not_means_of_ratios():
  window = [
    {
      "loss": (np.float32(6), np.float32(2)),
      "tokens": (np.float32(2), None),
      "loss_by_language": (np.array([6, 0, 0, 0.0]), np.array([2, 0, 0, 0])),
      "tokens_by_language": (np.array([2, 0, 0, 0.0]), None),
    },
    {
      "loss": (np.float32(10), np.float32(8)),
      "tokens": (np.float32(8), None),
      "loss_by_language": (np.array([2, 8, 0, 0.0]), np.array([2, 6, 0, 0])),
      "tokens_by_language": (np.array([2, 6, 0, 0.0]), None),
    },
  ]
  assert metrics.summarize(window, language_codes=CODES) == {
    "loss": 1.6,
    "tokens": 10.0,
    "loss_by_language": {"swh_Latn": 2.0, "hin_Deva": 8 / 6},
    "tokens_by_language": {"swh_Latn": 4.0, "hin_Deva": 6.0},
  }


def test_a_ratio_over_nothing_is_null():
  window = [{"kl_per_token": (np.float32(0), np.float32(0))}]
  record = metrics.summarize(window, language_codes=CODES)
  assert record == {"kl_per_token": None}


def test_a_zero_loss_of_a_language_that_occurred_is_kept():
  pair = (np.zeros(4), np.array([0, 3.0, 0, 0]))
  record = metrics.summarize([{"accuracy": pair}], language_codes=CODES)
  assert record == {"accuracy": {"hin_Deva": 0.0}}


def test_vector_of_another_length_is_an_error():
  pair = (np.zeros(3), np.ones(3))
  with pytest.raises(ValueError, match="3 entries, but there are 4 language"):
    metrics.summarize([{"x": pair}], language_codes=CODES)


def test_loads_of_experts_are_lists_of_any_length():
  pair = (np.array([1.0, 3.0, 2.0]), np.float32(1))
  record = metrics.summarize(
    [{"load_by_expert": pair}] * 2, language_codes=CODES
  )
  assert record == {"load_by_expert": [1.0, 3.0, 2.0]}


def test_resuming_drops_what_will_be_written_again(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for step in range(6):
    metrics.append(path, {"step": step, "loss": step / 7})
  metrics.drop_from(path, 4)
  for step in range(4, 6):
    metrics.append(path, {"step": step, "loss": -1.0})
  records = metrics.read(path)
  assert [r["step"] for r in records] == [0, 1, 2, 3, 4, 5]
  assert [r["loss"] for r in records][3:] == [3 / 7, -1.0, -1.0]
  assert list(tmp_path.iterdir()) == [path]


def test_a_line_cut_short_is_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  metrics.append(path, {"step": 0})
  with open(path, "a") as f:
    f.write('{"step": 1, "lo')
  metrics.drop_from(path, 2)
  assert metrics.read(path) == [{"step": 0}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
  with pytest.raises(ValueError, match="line 2"):
    metrics.drop_from(path, 1)
  assert "nonsense" in path.read_text()


def test_a_missing_file_is_a_fresh_run(tmp_path):
  metrics.drop_from(tmp_path / "metrics.jsonl", 0)
  assert not list(tmp_path.iterdir())


def test_lines_are_strict_json(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with pytest.raises(ValueError):
    metrics.append(path, {"step": 0, "loss": float("nan")})
  window = [{"grad": (np.float32("inf"), np.float32(1))}]
  record = metrics.summarize(window, language_codes=CODES)
  assert json.dumps(record) == '{"grad": null}'
