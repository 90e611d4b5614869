"""The page of a run of RLOO, on what such a run writes."""

import json
import re

import pytest

from mlm.alignment import calibration, samples, stop_rules
from mlm.evaluation import alignment_report, training_report
from mlm.training import ledger

TEXTS = {
  "eng_Latn": ("bread & <b>butter</b>", "en"),
  "rus_Cyrl": ("хлеб", "ru"),
  "ell_Grek": ("ψωμί", "el"),
  "hin_Deva": ("रोटी", "hi"),
  "arb_Arab": ("الخبز", "ar"),
  "heb_Hebr": ("לחם", "he"),
  "tha_Thai": ("ขนมปัง", "th"),
  "zho_Hani": ("面包", "zh"),
}
# Metric -> value of a language's place and a step.
METRICS = {
  "reward": lambda place, step: place + step / 10,
  "reward_right_language": lambda place, step: place / 10,
  "reward_no_repetition": lambda place, step: 1.0,
  "reward_ends": lambda place, step: 0.25,
  "reward_reward_model": lambda place, step: -1.0,
  "kl": lambda place, step: 2.0 * step,
  "kl_per_token": lambda place, step: step / 100,
  "entropy_per_token": lambda place, step: 3.0 - step / 10,
  "logprob_gap": lambda place, step: 2e-6,
  "length": lambda place, step: 10.0 + place,
  "ended": lambda place, step: 0.75,
  "equal_groups": lambda place, step: 0.5,
}


def _line(step):
  """Chinese occurs in even steps only."""
  line = {"step": step, "loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3}
  codes = [c for c in TEXTS if c != "zho_Hani" or step % 2 == 0]
  for name, value in METRICS.items():
    line[name] = value(0, step)
    line[f"{name}_by_language"] = {
      code: value(list(TEXTS).index(code), step) for code in codes
    }
  parts = {f"{part}_seconds": 0.0 for part in ledger.PARTS}
  return {**line, "seconds": 1.0, **parts}


def _samples(step):
  for code, (text, _) in TEXTS.items():
    yield {
      "step": step,
      "language": code,
      "id": f"{code}-{step}",
      "prompt": ["one", "two", text] if code == "ell_Grek" else text,
      "responses": [
        {
          "text": f"{text} {step} {row}",
          "reward": 1.25,
          "parts": {"ends": 1.0 - row},
          "kl": 0.5,
          "length": 7,
          "ended": row == 0,
        }
        for row in range(2)
      ],
    }


def _look(code, *, stops):
  row = {
    "verified": [0.9, 0.5 if stops else 0.89],
    "proxy": [0.0, 1.0],
    "error": 0.02,
    "limit": 0.11,
    "steps": 5,
    "stops": stops,
  }
  return {"step": 9, "by_language": {}, "look": {code: row}}


def _write(path, lines):
  path.write_text(
    "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
    encoding="utf-8",
  )


@pytest.fixture
def run(tmp_path):
  output = tmp_path / "rloo"
  output.mkdir()
  _write(output / "metrics.jsonl", [_line(step) for step in range(20)])
  _write(
    output / samples.FILE,
    [line for step in (0, 7, 14) for line in _samples(step)],
  )
  gate = {
    "part": "reward_model",
    "chance_gate": "warn",
    "confidence": 0.95,
    "by_language": {
      code: {"pairs": 50, "accuracy": 0.7, "low": low, "high": 0.8}
      for code, low in (("eng_Latn", 0.56), ("hin_Deva", 0.44))
    },
    "at_chance": {"hin_Deva": "accuracy …", "zho_Hani": "no held-out pairs"},
  }
  (output / calibration.GATE_FILE).write_text(json.dumps(gate))
  return output


def _page(run, path):
  training_report.write_report(
    output=str(run), path=str(path), refresh_seconds=None
  )
  return path.read_text(encoding="utf-8")


def _tables(page):
  """Heading -> {first cell: the others}."""
  found = {}
  for part in page.split("<h2>")[1:]:
    rows = [
      re.findall(r"<t[dh]>(.*?)</t[dh]>", row)
      for row in re.findall(r"<tr>(.*?)</tr>", part)
    ]
    found[part.split("</h2>")[0]] = {row[0]: row[1:] for row in rows}
  return found


def test_tables_have_every_language_from_first_to_last(run, tmp_path):
  tables = _tables(_page(run, tmp_path / "page.html"))
  rewards = tables["Rewards of rollouts"]
  assert {*TEXTS, "all responses"} <= set(rewards)
  # Steps 0 to 4 and 15 to 19; Chinese: 0 to 8 and 10 to 18, the even ones.
  assert rewards["rus_Cyrl"][:2] == ["1.20 → 2.70", "0.10 → 0.10"]
  assert rewards["zho_Hani"][0] == "7.40 → 8.40"
  assert rewards[""] == [
    "reward",
    "right_language",
    "no_repetition",
    "ends",
    "reward_model",
  ]
  assert tables["Distance from the reference"]["heb_Hebr"] == [
    "4.00 → 34.00",
    "0.020 → 0.170",
    "2.80 → 1.30",
    "2e-06 → 2e-06",
  ]
  assert tables["Responses of rollouts"]["ell_Grek"] == [
    "12.0 → 12.0",
    "0.25 → 0.25",  # truncated is what did not end
    "0.50 → 0.50",
  ]
  means = [row for name, row in rewards.items() if name.startswith("class ")]
  assert means


def test_samples_are_in_their_scripts_and_escaped(run, tmp_path):
  page = _page(run, tmp_path / "page.html")
  for code, (text, tag) in TEXTS.items():
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    escaped = escaped.replace(">", "&gt;")
    for step in (0, 14):  # the first and the latest
      told = f'<div dir="auto" lang="{tag}">{escaped} {step} 1</div>'
      assert page.count(told) == 1, code
    assert f"{escaped} 7 1" not in page
  assert "<b>butter" not in page
  assert "one\n\ntwo\n\nψωμί" in page
  assert "reward 1.25 (ends 0.00) · KL 0.50 · 7 tokens, truncated" in page
  assert not re.search(r"<script|(?:src|href)=[\"']?https?:", page)


def test_the_gate_is_shown_with_its_intervals(run, tmp_path):
  page = _page(run, tmp_path / "page.html")
  table = _tables(page)["What the reward is worth"]
  assert table["eng_Latn"] == ["50", "0.70", "[0.56, 0.80]", "passes"]
  assert table["hin_Deva"][2:] == [
    "[0.44, 0.80]",
    "not known to be above chance",
  ]
  assert table["zho_Hani"][:3] == ["–", "–", "–"]
  assert "above chance in 1 of 2 languages" in page


@pytest.mark.parametrize("stops", [False, True])
def test_what_the_stop_rule_saw_last_is_told(run, tmp_path, stops):
  _write(run / stop_rules.FILE, [_look("tha_Thai", stops=stops)])
  page = _page(run, tmp_path / "page.html")
  row = _tables(page)["Stop rule"]["tha_Thai"]
  assert row[-1] == ("stops the run" if stops else "goes on")
  assert row[2] == ("+0.400 ± 0.020" if stops else "+0.010 ± 0.020")
  assert ("stopped before step 9" in page) == stops


def test_a_comparison_in_the_run_is_shown(run, tmp_path):
  row = {
    **dict.fromkeys(("win", "loss", "tie", "delta", "low", "high"), 12.5),
    "prompts": 4,
    "clusters": 4,
  }
  rates = {
    "overall": row,
    "by_language": dict.fromkeys(TEXTS, row),
    "groups": {},
  }
  results = {"a": "rloo", "b": "sft", "judge": "someone"}
  for name, found in (
    ("against_sft", {**results, "win_rate": rates}),
    ("other", {"cells": []}),
  ):
    (run / name).mkdir()
    (run / name / "results.json").write_text(json.dumps(found))
  tables = _tables(_page(run, tmp_path / "page.html"))
  assert set(TEXTS) <= set(tables["Win rates: against_sft"])
  assert "Win rates: other" not in tables


def test_a_run_in_artificial_languages_has_a_page(run, tmp_path):
  text = (run / "metrics.jsonl").read_text(encoding="utf-8")
  (run / "metrics.jsonl").write_text(text.replace("tha_Thai", "qaa_Zzzz"))
  tables = _tables(_page(run, tmp_path / "page.html"))
  assert "qaa_Zzzz" in tables["Rewards of rollouts"]


def test_first_and_last_do_not_share_a_line():
  assert alignment_report.first_and_last([3.0]) == (3.0, 3.0)
  assert alignment_report.first_and_last([1.0, 2.0, 9.0]) == (1.0, 9.0)
  values = list(range(20))
  assert alignment_report.first_and_last(values) == (2.0, 17.0)
