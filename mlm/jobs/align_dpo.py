"""Job: alignment by DPO or a relative of it, through the one training loop."""

import dataclasses
import functools
import os

import jax

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import dpo, reference_cache
from mlm.instructions import records as records_lib
from mlm.jobs import models, training_run
from mlm.languages import registry
from mlm.models import adapters as adapters_lib
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load
from mlm.training import losses, step
from mlm.training.optimizers import MakeOptimizer


def align_dpo(
  *,
  tokenizer: str,
  initial: str,
  preferences_dir: str,
  reference_logprobs: str,
  output: str,
  objective: dpo.Objective,
  optimizer: MakeOptimizer,
  adapters: adapters_lib.AdapterConfig | None,
  mesh_shape: dict,
  batch_size: int,
  prompt_length: int,
  response_length: int,
  num_steps: int,
  temperature: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Aligns the fine-tuned model on pairs, against a frozen copy of itself.

  A decoder, or an encoder–decoder without adapters.

  Args:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of finetune; also the frozen reference.
    preferences_dir: output directory of make_preferences; its train split is
      used.
    reference_logprobs: .npz file of the reference's log-probabilities of the
      pairs; made if missing, refused if it is of another reference.
    output: directory for checkpoints and metrics.
    objective: of `mlm.alignment.dpo`.
    optimizer: of `mlm.training.optimizers`.
    adapters: those to train over the model; None to train the model.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: pairs a step.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    num_steps: updates.
    temperature: T of p ∝ n^(1/T) over pairs.
    seed: of the data order.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  truncation = {
    "prompt_length": prompt_length,
    "response_length": response_length,
  }
  pairs = records_lib.read_records(os.path.join(preferences_dir, "train.jsonl"))
  config, model, params = models.open_policy(
    initial, mesh=mesh, tokenizer_sha256=sha256
  )
  lengths = {
    "to_batch": models.batch_function(config),
    "processor": load.load(tokenizer),
    **truncation,
  }
  opened = models.Opened(config, None, model, params)
  part = models.trained_part(initial, opened, adapters)
  backend = linear_cross_entropy.default_backend()
  key = reference_cache.key_of(
    pairs,
    params=params,
    model=dataclasses.asdict(config),
    tokenizer_sha256=sha256,
    **truncation,
  )
  reference = reference_cache.read(reference_logprobs, key)
  if reference is None:
    place = step.make_place(mesh)
    of_batch = mesh_lib.jit(
      functools.partial(losses.sequence_logprobs, model.apply, backend=backend)
    )
    reference = dpo.reference_logprobs(
      pairs,
      logprobs=lambda batch: of_batch(params, place(batch)),
      batch_size=batch_size,
      lengths=lengths,
    )
    if jax.process_index() == 0:
      reference_cache.write(reference_logprobs, key, reference)
  source = dpo.batch_source(
    pairs,
    reference,
    batch_size=batch_size,
    temperature=temperature,
    seed=seed,
    lengths=lengths,
  )
  training_run.run(
    output=output,
    part=part,
    loss_fn=losses.with_frozen(
      functools.partial(
        dpo.preference_loss,
        objective=objective,
        backend=backend,
        num_languages=registry.NUM_LANGUAGES,
      ),
      part.apply,
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
      "objective": dataclasses.asdict(objective),
      "reference": key["checkpoint"],
      "batch_size": batch_size,
      "seed": seed,
    },
  )
  print(f"Model: {output}")
