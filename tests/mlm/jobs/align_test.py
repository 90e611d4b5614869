"""Jobs of alignment: DPO resumed, and the gate before RLOO."""

import importlib.util
import json
import logging
import pathlib

import numpy as np
import pytest

from mlm.alignment import calibration, dpo
from mlm.checkpoints import manager
from mlm.instructions import records
from mlm.jobs import align_dpo, models, reward_sources
from mlm.models import adapters as adapters_lib
from mlm.training import optimizers, schedules

SCRIPT = pathlib.Path(__file__).with_name("small_pretrain.py")
MESH = {"data": 2, "fsdp": 2, "tensor": 2}
WORDS = {
  "eng_Latn": "bread river",
  "rus_Cyrl": "утро школа",
  "ell_Grek": "ψωμί σχολείο",
  "hin_Deva": "रोटी नदी",
  "pes_Arab": "خبز نهر",
  "tha_Thai": "ขนมปัง แม่น้ำ",
}


def _load():
  spec = importlib.util.spec_from_file_location("small_pretrain", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A tokenizer, a model in base, and pairs in preferences."""
  job = _load()
  folder = tmp_path_factory.mktemp("align")
  job.make_data(folder)
  phases = [(0, job.shares(0.4, 0.3, 0.2, 0.1))]
  job.pretrain(folder, folder / "base", phases=phases, mesh_shape=MESH)
  pairs = []
  for code, words in WORDS.items():
    first, second = words.split()
    for i in range(2):
      pairs.append(
        {
          "id": f"{code}{i}",
          "language": code,
          "prompt": first,
          "chosen": f"{second} {first}"[i:],
          "rejected": first * (i + 1),
          "source": "made for this test",
        }
      )
  (folder / "preferences").mkdir()
  records.write_records(str(folder / "preferences" / "train.jsonl"), pairs)
  return folder


def _align(folder, name, num_steps, adapters=None):
  output = folder / name
  output.mkdir(exist_ok=True)
  align_dpo.align_dpo(
    tokenizer=str(folder / "tokenizer"),
    initial=str(folder / "base"),
    preferences_dir=str(folder / "preferences"),
    reference_logprobs=str(folder / "reference.npz"),
    output=str(output),
    objective=dpo.Objective(
      loss="logistic",
      beta=0.5,
      label_smoothing=0.1,
      per_token=False,
      sft_weight=0.0,
    ),
    optimizer=optimizers.adamw(
      learning_rate=schedules.constant_with_warmup(peak=1e-2, warmup_steps=1),
      beta1=0.9,
      beta2=0.95,
      epsilon=1e-8,
      weight_decay=0.0,
      max_grad_norm=1.0,
    ),
    adapters=adapters,
    mesh_shape=MESH,
    batch_size=8,
    prompt_length=40,
    response_length=40,
    num_steps=num_steps,
    temperature=1.0,
    seed=4,
    checkpoint_period=2,
    log_period=1,
  )
  with open(output / "metrics.jsonl", encoding="utf-8") as f:
    lines = [json.loads(line) for line in f]
  return [
    {k: v for k, v in line.items() if not k.endswith("seconds")}
    for line in lines
  ]


def test_dpo_starts_at_log_two_and_resumes_bit_for_bit(folder):
  whole = _align(folder, "whole", 6)
  assert whole[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
  assert whole[0]["margin"] == pytest.approx(0, abs=1e-4)
  assert whole[-1]["loss"] < 0.6
  assert set(whole[0]["margin_by_language"]) <= set(WORDS)
  before = (folder / "reference.npz").stat().st_mtime_ns
  _align(folder, "stopped", 2)
  assert _align(folder, "stopped", 6) == whole
  assert (folder / "reference.npz").stat().st_mtime_ns == before
  metadata = manager.read_metadata(models.checkpoints_of(str(folder / "whole")))
  assert metadata["objective"]["label_smoothing"] == 0.1


def _planted():
  """Of a reward model that is right in all languages but Thai."""
  languages = np.repeat(list(WORDS), 50)
  rng = np.random.default_rng(0)
  better = np.where(languages == "tha_Thai", 0.0, 1.5)
  return calibration.summarize(
    languages=languages,
    chosen=better + rng.normal(size=len(languages)),
    rejected=rng.normal(size=len(languages)),
    shortcuts={},
    confidence=0.95,
  )


def _gate(measured, languages, chance_gate):
  return reward_sources.check_above_chance(
    measured, languages, directory="rewards", chance_gate=chance_gate
  )


def test_the_gate_refuses_a_planted_language_at_chance():
  measured = _planted()
  row = measured["by_language"]["tha_Thai"]
  with pytest.raises(ValueError) as error:
    _gate(measured, list(WORDS), "refuse")
  named = [code for code in WORDS if code in str(error.value)]
  assert named == ["tha_Thai"]
  assert f"accuracy {row['accuracy']:.2f} [{row['low']:.2f}, " in str(
    error.value
  )


def test_the_gate_lets_other_languages_pass_and_warns_if_told_to(caplog):
  measured = _planted()
  others = [code for code in WORDS if code != "tha_Thai"]
  passed = _gate(measured, others, "refuse")
  assert not passed["at_chance"] and list(passed["by_language"]) == others
  assert not caplog.records
  with caplog.at_level(logging.WARNING):
    found = _gate(measured, list(WORDS), "warn")
  assert list(found["at_chance"]) == ["tha_Thai"]
  assert "tha_Thai: accuracy" in caplog.text
  with pytest.raises(ValueError, match="'refuse' or 'warn'"):
    _gate(measured, others, "off")


def test_dpo_of_adapters_keeps_them_alone_and_resumes(folder):
  lora = adapters_lib.LoraConfig(
    patterns=("layers/attention/*",), rank=2, alpha=4.0
  )
  adapters = adapters_lib.AdapterConfig(
    lora=lora, language=None, task_width=None
  )
  whole = _align(folder, "lora", 4, adapters)
  assert whole[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
  assert whole[-1]["loss"] < whole[0]["loss"]
  _align(folder, "lora_stopped", 2, adapters)
  assert _align(folder, "lora_stopped", 4, adapters) == whole
  metadata = manager.read_metadata(models.checkpoints_of(str(folder / "lora")))
  assert metadata["below"]["output"] == str(folder / "base")
