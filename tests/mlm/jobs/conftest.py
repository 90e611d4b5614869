"""Untrained policies and reward models, for tests of jobs that compare them.

Their checkpoints are those that the training jobs would have written; what the
jobs write into metadata is checked where the whole chain runs.
"""

import dataclasses
import importlib.util
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import pytest

from mlm.alignment import reference_cache, reward_model
from mlm.checkpoints import manager
from mlm.instructions import records
from mlm.jobs import models, train_reward_model
from mlm.models import decoder
from mlm.tokenizers import load
from mlm.training import state
from tests import tiny_models

SCRIPT = pathlib.Path(__file__).with_name("small_pretrain.py")
WORDS = {
  "eng_Latn": "bread river",
  "rus_Cyrl": "утро школа",
  "ell_Grek": "ψωμί σχολείο",
  "tha_Thai": "ขนมปัง แม่น้ำ",
}
CONFIG = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=309,  # of small_pretrain's tokenizer: every id has a piece
  num_layers=1,
  rope_scaling={"factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 64},
)


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


def _save(output, params, metadata):
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(str(output)), keep=1, metadata=metadata
  )
  checkpointer.save(0, state.TrainState(jnp.int32(0), params, ()))
  checkpointer.close()


@pytest.fixture(scope="session")
def aligned(tmp_path_factory):
  """Paths of tokenizer, base, dpo, rloo, prompts, reward_models by name.

  The reward model "all" has trained rloo; those named by a language, of other
  seeds, have trained nothing.
  """
  spec = importlib.util.spec_from_file_location("small_pretrain", SCRIPT)
  job = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(job)
  folder = tmp_path_factory.mktemp("aligned")
  job.make_data(folder)
  tokenizer = str(folder / "tokenizer")
  common = models.metadata_of(CONFIG, load.read_card(tokenizer)["model_sha256"])
  init = decoder.build(CONFIG).init
  policies = {
    name: init(jax.random.key(seed))
    for seed, name in enumerate(("base", "dpo", "rloo"))
  }
  reward_models, identities = {}, {}
  for seed, name in enumerate(("all", "eng_Latn", "rus_Cyrl")):
    params = reward_model.init(policies["base"], CONFIG.d_model)
    params["score"] = jax.random.normal(jax.random.key(seed), (CONFIG.d_model,))
    output = folder / f"reward_{name}"
    _save(output, params, {**common, "seed": seed})
    identities[name] = {
      "fingerprint": reference_cache.fingerprint(params),
      "seed": seed,
    }
    path = output / train_reward_model.CALIBRATION_FILE
    path.write_text(json.dumps(identities[name]))
    reward_models[name] = str(output)
  told = {
    "base": {},
    "dpo": {
      "objective": {"beta": 0.5, "per_token": False},
      "reference": reference_cache.fingerprint(policies["base"]),
    },
    "rloo": {
      "reward_weights": {"reward_model": 1.0},
      "reward_model": identities["all"],
    },
  }
  for name, params in policies.items():
    _save(folder / name, params, {**common, **told[name]})
  path = folder / "prompts.jsonl"
  records.write_records(path, _prompts())
  return types.SimpleNamespace(
    tokenizer=tokenizer,
    prompts=str(path),
    reward_models=reward_models,
    mesh={"data": 8, "fsdp": 1, "tensor": 1},
    lengths={"prompt_length": 24, "response_length": 12},
    languages=tuple(WORDS),
    **{name: str(folder / name) for name in policies},
  )
