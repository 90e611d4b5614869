"""Job: a Bradley–Terry reward model on preference pairs."""

import functools
import json
import os

import numpy as np

from mlm.alignment import preferences, reward_model
from mlm.instructions import records as records_lib
from mlm.jobs import models, training_run
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load, special
from mlm.training import step
from mlm.training.optimizers import Optimizer

CALIBRATION_FILE = "calibration.json"


def train_reward_model(
  *,
  tokenizer: str,
  initial: str,
  preferences_dir: str,
  output: str,
  optimizer: Optimizer,
  mesh_shape: dict,
  batch_size: int,
  prompt_length: int,
  response_length: int,
  num_steps: int,
  temperature: float,
  centering: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Trains a scalar reward on top of the fine-tuned decoder.

  Afterwards calibration.json holds, from held-out pairs: accuracy by language,
  that of preferring the longer response, and the mean and standard deviation of
  the score on the policy's own samples, which standardise the reward.

  Args:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of finetune.
    preferences_dir: output directory of make_preferences.
    output: directory for checkpoints, metrics and calibration.json.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: pairs a step.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    num_steps: updates.
    temperature: T of p ∝ n^(1/T) over pairs.
    centering: weight of the squared sum of a pair's scores.
    seed: of the data order and steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  lengths = {
    "processor": load.load(tokenizer),
    "prompt_length": prompt_length,
    "response_length": response_length,
  }
  pairs, held_out = (
    records_lib.read_records(os.path.join(preferences_dir, f"{split}.jsonl"))
    for split in ("train", "validation")
  )
  source = preferences.pair_source(
    pairs,
    batch_size=batch_size,
    temperature=temperature,
    seed=seed,
    **lengths,
  )
  config, model, params = models.open_decoder(
    initial, mesh=mesh, tokenizer_sha256=sha256
  )
  state = training_run.run(
    output=output,
    part=models.Part(
      init=lambda key: reward_model.init(model.init(key), config.d_model),
      params=reward_model.init(params, config.d_model),
      logical_axes={"decoder": model.logical_axes(), "score": ("embed",)},
    ),
    loss_fn=reward_model.bradley_terry_loss(
      model.apply,
      centering=centering,
      num_languages=registry.NUM_LANGUAGES,
      pad_id=special.PAD_ID,
    ),
    optimizer=optimizer,
    mesh=mesh,
    batch_source=lambda state: source(int(state.step)),
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **models.metadata_of(config, sha256),
      "batch_size": batch_size,
      "seed": seed,
    },
  )
  calibration = _calibrate(
    held_out,
    score=functools.partial(
      mesh_lib.jit(
        lambda params, rows: reward_model.scores(
          model.apply, params, rows, pad_id=special.PAD_ID
        )
      ),
      state.params,
    ),
    place=step.make_place(mesh),
    batch_size=batch_size,
    lengths=lengths,
  )
  with open(os.path.join(output, CALIBRATION_FILE), "w") as f:
    json.dump(calibration, f, indent=1)
  print(f"{'language':<12}{'pairs':>8}{'accuracy':>10}{'longer':>10}")
  for code, row in calibration["by_language"].items():
    print(
      f"{code:<12}{row['pairs']:>8}{row['accuracy']:>10.2f}"
      f"{row['longer_accuracy']:>10.2f}"
    )
  print(f"Reward model: {output}")


def _calibrate(pairs, *, score, place, batch_size, lengths) -> dict:
  chosen, rejected, longer = [], [], []
  for start in range(0, len(pairs), batch_size):
    chunk = pairs[start : start + batch_size]
    filled = [chunk[i % len(chunk)] for i in range(batch_size)]
    arrays = preferences.pair_rows(filled, **lengths)
    size = len(chunk)
    rows = place(
      {side: arrays[f"{side}_rows"] for side in ("chosen", "rejected")}
    )
    chosen.append(np.asarray(score(rows["chosen"]))[:size])
    rejected.append(np.asarray(score(rows["rejected"]))[:size])
    num_tokens = [
      (arrays[f"{side}_rows"] != special.PAD_ID).sum(axis=1)[:size]
      for side in ("chosen", "rejected")
    ]
    longer.append(num_tokens[0] > num_tokens[1])
  chosen, rejected, longer = map(np.concatenate, (chosen, rejected, longer))
  languages = np.array([pair["language"] for pair in pairs])
  rows = {}
  for code in sorted(set(languages)):
    of_code = languages == code
    rows[code] = {
      "pairs": int(of_code.sum()),
      "accuracy": float((chosen > rejected)[of_code].mean()),
      "longer_accuracy": float(longer[of_code].mean()),
    }
  return {
    "mean": float(rejected.mean()),
    "std": float(rejected.std()),
    "accuracy": float((chosen > rejected).mean()),
    "longer_accuracy": float(longer.mean()),
    "by_language": rows,
  }
