"""The page that follows a training run, on lines made here."""

import json
import re

import pytest

from mlm.evaluation import training_report
from mlm.jobs import watch
from mlm.training import ledger

CODES = ("swh_Latn", "hin_Deva", "zho_Hani", "arb_Arab", "ell_Grek", "tha_Thai")


def _line(step):
  return {
    "step": step,
    "loss": 8.0 - step / 10,
    "loss_by_language": {
      code: 8.0 - step / 10 + i for i, code in enumerate(CODES)
    },
    "tokens_by_language": {
      code: 100.0 * (i + 1) for i, code in enumerate(CODES)
    },
    "bits_per_byte_by_language": {code: 3.25 for code in CODES},
    "epochs_by_language": {code: step / 7 for code in CODES},
    "grad_norm": 1.5,
    "learning_rate": 1e-3,
    "seconds": 4.0,
    "data_seconds": 1.0,
    "compile_seconds": 0.0,
    "checkpoint_seconds": 0.5,
    "tokens_per_second": 525.0,
    "model_flops_per_second": 3e9,
  }


@pytest.fixture
def run(tmp_path):
  output = tmp_path / "run"
  ledger.append(output, "begin")
  ledger.append(output, "ready", step=0)
  with open(output / "metrics.jsonl", "w") as f:
    for step in (9, 19, 29):
      f.write(json.dumps(_line(step)) + "\n")
      parts = {f"{part}_seconds": 0.0 for part in ledger.PARTS}
      ledger.append(output, "window", step=step, seconds=0.0, **parts)
  plan = [{"language": code, "expected_epochs": 4.5} for code in CODES]
  (output / "mixture.json").write_text(json.dumps({"rows": plan}))
  return output


def _rows(page):
  return [
    re.findall(r"<td>(.*?)</td>", row)
    for row in re.findall(r"<tr>(.*?)</tr>", page)
  ]


def test_table_has_every_language_by_size_with_its_plan(run, tmp_path):
  path = tmp_path / "page" / "training.html"
  last = training_report.write_report(
    output=str(run), path=str(path), refresh_seconds=7
  )
  assert last["step"] == 29
  page = path.read_text()
  rows = {row[0]: row[1:] for row in _rows(page) if row}
  assert list(rows)[: len(CODES)] == list(reversed(CODES))
  # Losses of the first and the last line, bits, epochs so far, planned.
  assert rows["hin_Deva"] == ["8.10", "6.10", "3.25", "4.14", "4.50"]
  means = [row for name, row in rows.items() if name.startswith("class ")]
  assert means and all(row[2:] == ["3.25", "4.14", "4.50"] for row in means)
  assert 'http-equiv="refresh" content="7"' in page
  assert page.count("<svg") == 4
  # 2.5 of 4 seconds of every line.
  assert "Computing takes 62% of the steps" in page


def test_watching_ends_with_the_run_and_stops_reloading(run, tmp_path, capsys):
  ledger.append(run, "end", checkpoint_seconds=0.0)
  watch.watch(run=str(run), output=str(tmp_path), period_seconds=1)
  assert "step 29: loss 5.100" in capsys.readouterr().out
  assert "http-equiv" not in (tmp_path / "training.html").read_text()


def test_run_without_a_line_is_an_error(tmp_path):
  ledger.append(tmp_path, "begin")
  with pytest.raises(FileNotFoundError, match="no line in"):
    training_report.write_report(
      output=str(tmp_path), path=str(tmp_path / "x"), refresh_seconds=None
    )
