"""Samples of rollouts, in seven scripts, and of runs that were stopped."""

import json

import numpy as np
import pytest

from mlm.alignment import samples
from mlm.tokenizers import special

TEXTS = {
  "eng_Latn": "bread",
  "rus_Cyrl": "хлеб",
  "ell_Grek": "ψωμί",
  "hin_Deva": "रोटी",
  "pes_Arab": "نان",
  "tha_Thai": "ขนมปัง",
  "zho_Hani": "面包",
}
FIRST = special.FIRST_BYTE_ID


class _Processor:
  """A piece is a text."""

  def decode(self, tokens):
    return " ".join(list(TEXTS.values())[token - FIRST] for token in tokens)


def _records(number):
  """Two prompts a language, of which the first is kept."""
  return [
    {"id": f"{code}-{number}-{i}", "language": code, "prompt": TEXTS[code]}
    for i in range(2)
    for code in TEXTS
  ]


def _rollout(policy, number):
  """Two responses a prompt: its text twice, ended or not; reward by row."""
  places = np.repeat(np.tile(np.arange(len(TEXTS)), 2), 2)
  num_rows = len(places)
  targets = np.full((num_rows, 4), special.PAD_ID)
  targets[:, 0] = targets[:, 1] = FIRST + places
  targets[::2, 2] = special.EOS_ID
  weights = (targets != special.PAD_ID).astype(np.float32)
  batch = {
    "decoder_target_tokens": targets,
    "decoder_loss_weights": weights,
    "reward": np.arange(num_rows, dtype=np.float32) + policy,
    "reward_ends": weights[:, 2],
    "kl": np.full(num_rows, 0.5, np.float32),
    "length": weights.sum(axis=1),
    "ended": weights[:, 2],
  }
  return batch, (num_rows // 2, 2)


def _recorded(output, **changes):
  settings = {"period": 2, "steps_per_rollout": 1, **changes}
  return samples.recorded(
    _rollout,
    records=_records,
    processor=_Processor(),
    output=output,
    **settings,
  )


def _lines(output):
  text = (output / samples.FILE).read_text(encoding="utf-8")
  return [json.loads(line) for line in text.splitlines()]


def test_a_line_holds_the_first_prompt_of_a_language(tmp_path):
  batch, of_prompts = _recorded(tmp_path)(0, 0)
  assert of_prompts == (14, 2) and len(batch["reward"]) == 28
  lines = _lines(tmp_path)
  assert [line["language"] for line in lines] == list(TEXTS)
  thai = lines[5]
  assert thai["id"] == "tha_Thai-0-0" and thai["prompt"] == "ขนมปัง"
  assert thai["responses"] == [
    {
      "text": "ขนมปัง ขนมปัง",
      "reward": 10.0 + row,
      "parts": {"ends": 1.0 - row},
      "kl": 0.5,
      "length": 3 - row,
      "ended": row == 0,
    }
    for row in range(2)
  ]


def test_rollouts_between_leave_nothing(tmp_path):
  recorded = _recorded(tmp_path, steps_per_rollout=4)
  for number in range(5):
    recorded(0, number)
  assert sorted({line["step"] for line in _lines(tmp_path)}) == [0, 8, 16]


@pytest.mark.parametrize("steps_per_rollout", [1, 4])
def test_a_resumed_run_repeats_no_line(tmp_path, steps_per_rollout):
  settings = {"period": 1, "steps_per_rollout": steps_per_rollout}
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  for output in (whole, stopped):
    output.mkdir()
  recorded = _recorded(whole, **settings)
  for number in range(4):
    recorded(number, number)
  recorded = _recorded(stopped, **settings)
  for number in range(3):  # from a policy that was not saved
    recorded(number if number < 2 else 9, number)
  with open(stopped / samples.FILE, "a", encoding="utf-8") as f:
    f.write('{"step": 3, "langu')  # killed there
  recorded = _recorded(stopped, **settings)
  for number in (2, 3):
    recorded(number, number)
  assert _lines(stopped) == _lines(whole)
