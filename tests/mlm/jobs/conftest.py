"""Tiny policies and reward models, made once for the tests that compare them."""

import importlib.util
import itertools
import pathlib
import types

import pytest

from mlm.alignment import dpo, estimators, reward_model
from mlm.instructions import records
from mlm.jobs import align_dpo, align_rloo, train_reward_model
from mlm.training import optimizers, schedules

SCRIPT = pathlib.Path(__file__).with_name("small_pretrain.py")
MESH = {"data": 2, "fsdp": 2, "tensor": 2}
LENGTHS = {"prompt_length": 24, "response_length": 12}
WORDS = {
  "eng_Latn": "bread river",
  "rus_Cyrl": "утро школа",
  "ell_Grek": "ψωμί σχολείο",
  "tha_Thai": "ขนมปัง แม่น้ำ",
}
WEIGHTS = dict.fromkeys(("right_language", "no_repetition", "ends"), 0.0)


def _optimizer(rate):
  return optimizers.adamw(
    learning_rate=schedules.constant_with_warmup(peak=rate, warmup_steps=1),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,
  )


def _pairs(codes):
  """Both orders of two words: the one that begins with the prompt is chosen."""
  for code in codes:
    for i, (first, second) in enumerate(
      itertools.permutations(WORDS[code].split())
    ):
      yield {
        "id": f"{code}{i}",
        "language": code,
        "prompt": first,
        "chosen": f"{first} {second}",
        "rejected": f"{second} {second}",
        "source": "made for this test",
      }


def _prompts():
  for i in range(4):
    for code, words in WORDS.items():
      yield {
        "id": f"{code}-{i}",
        "task": "continue",
        "language": code,
        "prompt": words.split()[i % 2],
        "source_url": f"source {i}",  # the same in all languages
      }


@pytest.fixture(scope="session")
def aligned(tmp_path_factory):
  """Paths of tokenizer, base, reward models, rloo, dpo, prompts; mesh, lengths.

  reward_models are {name: directory} of all languages, which trained rloo, and
  of one language each.
  """
  spec = importlib.util.spec_from_file_location("small_pretrain", SCRIPT)
  job = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(job)
  folder = tmp_path_factory.mktemp("aligned")
  job.make_data(folder)
  phases = [(0, job.shares(0.4, 0.3, 0.2, 0.1))]
  job.pretrain(folder, folder / "base", phases=phases, mesh_shape=MESH)
  common = {
    "tokenizer": str(folder / "tokenizer"),
    "initial": str(folder / "base"),
    "mesh_shape": MESH,
    "checkpoint_period": 8,
    "log_period": 8,
    "response_length": LENGTHS["response_length"],
  }
  prompt_length = LENGTHS["prompt_length"]
  reward_models = {}
  for name, codes, seed in (
    ("all", WORDS, 0),
    ("eng_Latn", ["eng_Latn"], 1),
    ("rus_Cyrl", ["rus_Cyrl"], 2),
  ):
    pairs = folder / f"pairs_{name}"
    pairs.mkdir()
    for split in ("train", "validation"):
      records.write_records(pairs / f"{split}.jsonl", _pairs(codes))
    reward_models[name] = str(folder / f"reward_{name}")
    train_reward_model.train_reward_model(
      **common,
      prompt_length=prompt_length,
      preferences_dir=str(pairs),
      output=reward_models[name],
      optimizer=_optimizer(3e-3),
      batch_size=8,
      num_steps=8,
      temperature=1.0,
      make_loss=reward_model.pairwise(centering=0.01),
      confidence=0.95,
      seed=seed,
    )
  instructions = folder / "instructions"
  instructions.mkdir()
  for split in ("train", "validation"):
    records.write_records(instructions / f"{split}.jsonl", _prompts())
  align_rloo.align_rloo(
    **common,
    prompt_lengths=[prompt_length],
    adapters=None,
    reference_dtype="float32",
    max_logprob_gap=1e-3,
    reward_model_dir=reward_models["all"],
    records=str(instructions),
    output=str(folder / "rloo"),
    tasks=["continue"],
    optimizer=_optimizer(1e-3),
    prompts_per_step=8,
    samples_per_prompt=2,
    updates_per_rollout=1,
    num_steps=1,
    sampling_temperature=1.0,
    language_temperature=1.0,
    reward_weights={**WEIGHTS, "reward_model": 1.0},
    standardize_by_language=False,
    chance_gate="warn",
    estimator=estimators.Estimator(
      baseline="siblings",
      advantage_scale="none",
      kl_in="reward",
      kl_estimator="k1",
      kl_coefficient=0.05,
      ratio="none",
      clip=None,
      average="sequences",
    ),
    seed=0,
  )
  align_dpo.align_dpo(
    **common,
    prompt_length=prompt_length,
    adapters=None,
    preferences_dir=str(folder / "pairs_eng_Latn"),
    reference_logprobs=str(folder / "reference.npz"),
    output=str(folder / "dpo"),
    objective=dpo.Objective(
      loss="logistic",
      beta=0.5,
      label_smoothing=0.0,
      per_token=False,
      sft_weight=0.0,
    ),
    optimizer=_optimizer(3e-3),
    batch_size=8,
    num_steps=8,
    temperature=1.0,
    seed=4,
  )
  return types.SimpleNamespace(
    tokenizer=str(folder / "tokenizer"),
    base=str(folder / "base"),
    reward_models=reward_models,
    rloo=str(folder / "rloo"),
    dpo=str(folder / "dpo"),
    prompts=str(instructions / "validation.jsonl"),
    mesh=MESH,
    lengths=LENGTHS,
    languages=tuple(WORDS),
    pairs=list(_pairs(WORDS)),
  )
