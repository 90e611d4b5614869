"""Job: a reward model on preference pairs."""

import functools
import json
import os
from collections.abc import Callable

import numpy as np

from mlm.alignment import (
  calibration,
  preferences,
  reference_cache,
  reward_model,
)
from mlm.instructions import records as records_lib
from mlm.jobs import models, training_run
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load, special
from mlm.training import step
from mlm.training.optimizers import MakeOptimizer

CALIBRATION_FILE = "calibration.json"


def train_reward_model(
  *,
  tokenizer: str,
  initial: str,
  preferences_dir: str,
  output: str,
  optimizer: MakeOptimizer,
  mesh_shape: dict,
  batch_size: int,
  prompt_length: int,
  response_length: int,
  num_steps: int,
  temperature: float,
  make_loss: Callable,
  confidence: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Trains a scalar reward on top of the fine-tuned decoder.

  Afterwards calibration.json holds what held-out pairs say of it, by language;
  see `mlm.alignment.calibration.summarize`.

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
    make_loss: of `reward_model.pairwise` or `reward_model.pointwise`.
    confidence: of the intervals of held-out accuracy, such as 0.95.
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
  if not held_out:
    raise ValueError(
      f"{os.path.join(preferences_dir, 'validation.jsonl')} holds no pairs; "
      "without held-out pairs nobody knows what the reward model is worth: run "
      "make_preferences on records that have a validation split"
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
      logical_axes=reward_model.logical_axes(model.logical_axes()),
    ),
    loss_fn=make_loss(
      model.apply,
      num_languages=registry.NUM_LANGUAGES,
      pad_id=special.PAD_ID,
    ),
    optimizer=optimizer,
    num_microbatches=1,
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
  measured = _calibrate(
    pairs,
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
    vocab_size=config.vocab_size,
    confidence=confidence,
  )
  # A judge must be able to tell whether this model trained the policy.
  measured["fingerprint"] = reference_cache.fingerprint(state.params)
  measured["seed"] = seed
  path = os.path.join(output, CALIBRATION_FILE)
  with open(path, "w", encoding="utf-8") as f:
    json.dump(measured, f, indent=1)
  columns = ("pairs", "accuracy", "low", "high", "log_loss")
  columns += ("length_accuracy", "tokens_accuracy")
  print(f"{'language':<12}" + "".join(f"{name:>17}" for name in columns))
  rows = {**measured["by_language"], "together": measured["together"]}
  for name, row in rows.items():
    numbers = [f"{row[column]:>17.4g}" for column in columns]
    print(f"{name:<12}" + "".join(numbers))
  print(f"Reward model: {output}")


def _calibrate(
  pairs,
  held_out,
  *,
  score,
  place,
  batch_size,
  lengths,
  vocab_size,
  confidence,
) -> dict:
  def responses(arrays):
    return [
      arrays[f"{side}_rows"][:, lengths["prompt_length"] :]
      for side in ("chosen", "rejected")
    ]

  shortcuts = calibration.fit_shortcuts(
    *responses(preferences.pair_rows(pairs, **lengths)), vocab_size=vocab_size
  )
  arrays = preferences.pair_rows(held_out, **lengths)
  scores = {}
  for side in ("chosen", "rejected"):
    rows = arrays[f"{side}_rows"]
    found = []
    for start in range(0, len(rows), batch_size):
      chunk = rows[start : start + batch_size]
      filled = np.resize(chunk, (batch_size, chunk.shape[1]))
      placed = place({"rows": filled})["rows"]
      found.append(np.asarray(score(placed))[: len(chunk)])
    scores[side] = np.concatenate(found)
  return calibration.summarize(
    languages=[pair["language"] for pair in held_out],
    chosen=scores["chosen"],
    rejected=scores["rejected"],
    shortcuts=shortcuts(*responses(arrays)),
    confidence=confidence,
  )
