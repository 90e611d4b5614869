"""The chain with an mT5: fine-tuned, its samples judged by a decoder, aligned."""

import json
import math
import shutil
import types

import numpy as np
import pytest

from mlm.alignment import dpo, estimators, preferences, reward_model, rewards
from mlm.data import example_mixture
from mlm.instructions import records
from mlm.jobs import (
  align_dpo,
  align_ppo,
  align_rloo,
  cache_records,
  cross_entropy,
  finetune,
  make_preferences,
  models,
  reward_sources,
  rollout_jobs,
  train_reward_model,
)
from mlm.models import adapters as adapters_lib
from mlm.models import encdec
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import load
from mlm.training import loss_weights, optimizers, schedules
from mlm.training import metrics as metrics_lib

TEXTS = {
  "eng_Latn": "bread river",
  "rus_Cyrl": "утро школа",
  "ell_Grek": "ψωμί σχολείο",
  "hin_Deva": "रोटी नदी",
  "pes_Arab": "خبز نهر",
  "tha_Thai": "ขนมปัง แม่น้ำ",
}
MESH = {"data": 8, "fsdp": 1, "tensor": 1}
LENGTHS = {"prompt_length": 24, "response_length": 16}
OPTIMIZER = optimizers.adamw(
  learning_rate=schedules.constant_with_warmup(peak=1e-2, warmup_steps=1),
  beta1=0.9,
  beta2=0.95,
  epsilon=1e-8,
  weight_decay=0.0,
  max_grad_norm=1.0,
)
COMMON = {
  "optimizer": OPTIMIZER,
  "mesh_shape": MESH,
  "batch_size": 8,
  "seed": 4,
  "checkpoint_period": 1,
  "log_period": 1,
}


def _records():
  for code, text in TEXTS.items():
    first, second = text.split()
    for i in range(2):
      yield {
        "id": f"{code}-{i}",
        "task": "continue",
        "language": code,
        "prompt": (first, second)[i],
        "response": (second, first)[i],
        "source_url": f"source {i}",
      }


def _finetune(chain, output, **changes):
  output.mkdir(exist_ok=True)
  finetune.finetune(
    **{
      **COMMON,
      "tokenizer": chain.tokenizer,
      "initial": chain.mt5,
      "examples": str(chain.folder / "examples"),
      "output": str(output),
      "sequence_length": {"inputs": 32, "targets": 40},
      "too_long": "refuse",
      "adapters": None,
      "num_steps": 3,
      "sampler": example_mixture.by_sources(
        percentages={"templates": 100}, rule=1.0
      ),
      "make_loss": cross_entropy.cross_entropy(
        z_loss=1e-4,
        label_smoothing=0.0,
        token_weights=loss_weights.per_token,
        language_weights=None,
      ),
      "num_microbatches": 1,
      **changes,
    }
  )
  return _metrics(output)


def _metrics(output):
  return [
    {name: value for name, value in line.items() if "second" not in name}
    for line in metrics_lib.read(output / "metrics.jsonl")
  ]


@pytest.fixture(scope="module")
def chain(aligned, tmp_path_factory):
  """The mT5 fine-tuned, pairs of its samples, and a decoder as reward model."""
  folder = tmp_path_factory.mktemp("mt5")
  for name in ("records", "preferences", "reward"):
    (folder / name).mkdir()
  for split in ("train", "validation"):
    path = folder / "records" / f"{split}.jsonl"
    records.write_records(str(path), _records())
  chain = types.SimpleNamespace(
    **{**vars(aligned), "folder": folder, "sft": str(folder / "sft")},
    records=str(folder / "records"),
    preferences=str(folder / "preferences"),
    reward=str(folder / "reward"),
  )
  cache_records.cache_records(
    sources={"templates": chain.records},
    tokenizer=chain.tokenizer,
    output=str(folder / "examples"),
  )
  chain.sft_metrics = _finetune(chain, folder / "sft")
  make_preferences.make_preferences(
    tokenizer=chain.tokenizer,
    policy=chain.sft,
    records=chain.records,
    output=chain.preferences,
    tasks=["continue"],
    mesh_shape=MESH,
    max_records=12,
    batch_size=8,
    **LENGTHS,
    temperature=1.0,
    seed=2,
  )
  train_reward_model.train_reward_model(
    **COMMON,
    **LENGTHS,
    tokenizer=chain.tokenizer,
    initial=chain.base,
    preferences_dir=chain.preferences,
    output=chain.reward,
    num_steps=1,
    temperature=1.0,
    make_loss=reward_model.pairwise(centering=0.0),
    confidence=0.95,
  )
  return chain


def _rollouts(chain, **changes):
  parts = {**dict.fromkeys(rewards.PARTS, 1.0), "reward_model": 0.5}
  settings = {
    "tokenizer": chain.tokenizer,
    "initial": chain.sft,
    "reward_model_dir": chain.reward,
    "dpo_reference": "",
    "records": chain.records,
    "tasks": ["continue"],
    "mesh_shape": MESH,
    "prompts_per_step": 8,
    "samples_per_prompt": 2,
    "prompts_at_once": None,
    "prompt_lengths": (LENGTHS["prompt_length"],),
    "response_length": LENGTHS["response_length"],
    "sampling_temperature": 1.0,
    "language_temperature": 1.0,
    "reward_weights": parts,
    "standardize_by_language": False,
    "chance_gate": "warn",
    "adapters": None,
    "reference_dtype": "float32",
    "max_logprob_gap": 1e-4,
    "samples_period": 1,
    "seed": 3,
  }
  return rollout_jobs.Settings(**{**settings, **changes})


def _align_rloo(chain, name, num_steps, **changes):
  output = chain.folder / name
  output.mkdir(exist_ok=True)
  align_rloo.align_rloo(
    rollouts=_rollouts(chain, **changes),
    output=str(output),
    optimizer=OPTIMIZER,
    updates_per_rollout=1,
    estimator=estimators.paper(kl_coefficient=0.1),
    stop_rule=None,
    num_steps=num_steps,
    checkpoint_period=1,
    log_period=1,
  )
  return _metrics(output)


def _align_dpo(chain, name, num_steps):
  output = chain.folder / name
  output.mkdir(exist_ok=True)
  align_dpo.align_dpo(
    **COMMON,
    **LENGTHS,
    tokenizer=chain.tokenizer,
    initial=chain.sft,
    preferences_dir=chain.preferences,
    reference_logprobs=str(chain.folder / "reference.npz"),
    output=str(output),
    objective=dpo.Objective(
      loss="logistic",
      beta=0.5,
      label_smoothing=0.0,
      per_token=False,
      sft_weight=0.0,
    ),
    adapters=None,
    num_steps=num_steps,
    temperature=1.0,
  )
  return _metrics(output)


def test_rloo_resumes_bit_for_bit_and_its_decoding_is_its_forward(chain):
  whole = _align_rloo(chain, "rloo", 2)
  killed = chain.folder / "killed"  # after its first step
  shutil.copytree(chain.folder / "rloo", killed)
  shutil.rmtree(killed / "checkpoints" / "2")
  metrics_lib.drop_from(killed / "metrics.jsonl", 1)
  assert _align_rloo(chain, "killed", 2) == whole
  for line in whole:
    assert line["logprob_gap"] < 1e-4
    assert math.isfinite(line["reward_reward_model"])
  assert whole[0]["kl"] == pytest.approx(0, abs=1e-6)
  assert whole[1]["kl"] != whole[0]["kl"]
  lines = metrics_lib.read(chain.folder / "rloo" / "samples.jsonl")
  assert {line["language"] for line in lines} <= set(TEXTS)


def test_dpo_starts_at_log_two_and_is_a_reward(chain):
  losses = [line["loss"] for line in _align_dpo(chain, "dpo", 3)]
  assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
  assert losses[-1] < losses[0]
  reward = reward_sources.open_reward(
    str(chain.folder / "dpo"),
    dpo_reference=chain.sft,
    mesh=mesh_lib.make_mesh(MESH),
    tokenizer=chain.tokenizer,
    response_length=LENGTHS["response_length"],
  )
  pairs = preferences.pair_rows(
    records.read_records(f"{chain.preferences}/train.jsonl")[:8],
    processor=load.load(chain.tokenizer),
    **LENGTHS,
  )
  chosen, rejected = (
    reward.raw_score(pairs[f"{side}_rows"]) for side in ("chosen", "rejected")
  )
  assert (chosen - rejected).mean() > 0


def test_fine_tuning_lowers_the_loss_of_packed_rows(chain):
  losses = [line["loss"] for line in chain.sft_metrics]
  assert losses[-1] < losses[0]
  opened = models.open_model(
    chain.sft, mesh=mesh_lib.make_mesh(MESH), metadata={}
  )
  assert isinstance(opened.config, encdec.EncoderDecoderConfig)


def test_what_needs_a_decoder_refuses_an_encoder_decoder(chain, tmp_path):
  with pytest.raises(ValueError, match="a reward model needs a decoder-only"):
    _align_rloo(chain, "refused", 1, reward_model_dir=chain.sft)
  with pytest.raises(ValueError, match="prompts_at_once"):
    _align_rloo(chain, "refused", 1, prompts_at_once=8)
  lora = adapters_lib.AdapterConfig(
    lora=adapters_lib.LoraConfig(
      patterns=("layers/attention/*",), rank=2, alpha=4.0
    ),
    language=None,
    task_width=None,
  )
  with pytest.raises(ValueError, match="ADAPTERS. needs a decoder-only"):
    _align_rloo(chain, "refused", 1, adapters=lora)
  with pytest.raises(ValueError, match="PPO, .* needs a decoder-only"):
    align_ppo.align_ppo(
      rollouts=_rollouts(chain),
      output=str(tmp_path),
      optimizer=OPTIMIZER,
      settings=types.SimpleNamespace(updates_per_rollout=1),
      num_steps=1,
      checkpoint_period=1,
      log_period=1,
    )


def test_lengths_of_the_other_family_are_refused(chain, tmp_path):
  with pytest.raises(ValueError, match="two lengths; set SEQUENCE_LENGTH"):
    _finetune(chain, tmp_path, sequence_length=32)
  with pytest.raises(ValueError, match="one length; set SEQUENCE_LENGTH"):
    _finetune(chain, tmp_path, initial=chain.base)


def test_a_reward_of_another_tokenizer_is_refused(chain, tmp_path):
  other = tmp_path / "reward"
  shutil.copytree(chain.reward, other)
  (path,) = other.glob("checkpoints/*/metadata/metadata")
  metadata = json.loads(path.read_text())
  path.write_text(json.dumps({**metadata, "tokenizer_sha256": "another"}))
  with pytest.raises(ValueError, match="other settings:\n *tokenizer_sha256"):
    _align_rloo(chain, "refused", 1, reward_model_dir=str(other))
