"""Job: supervised fine-tuning on instruction records."""

import os

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.data import prompts
from mlm.instructions import records as records_lib
from mlm.jobs import training_run
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load
from mlm.training import losses
from mlm.training.optimizers import Optimizer


def finetune(
  *,
  tokenizer: str,
  initial: str,
  records: str,
  output: str,
  optimizer: Optimizer,
  mesh_shape: dict,
  batch_size: int,
  prompt_length: int,
  response_length: int,
  num_steps: int,
  temperature: float,
  z_loss: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Fine-tunes a decoder on prompts and responses, loss on the response only.

  Args:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of pretrain.
    records: output directory of make_instructions.
    output: directory for checkpoints and metrics.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: {"data", "fsdp", "tensor"} -> devices.
    batch_size: rows a step.
    prompt_length: tokens of a prompt, turn markers included.
    response_length: tokens of a response, EOS included.
    num_steps: updates.
    temperature: T of p ∝ n^(1/T) over records.
    z_loss: weight of the squared log-normalizer.
    seed: of the data order and steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  source = prompts.record_source(
    records_lib.read_records(os.path.join(records, "train.jsonl")),
    processor=load.load(tokenizer),
    prompt_length=prompt_length,
    response_length=response_length,
    batch_size=batch_size,
    temperature=temperature,
    seed=seed,
  )
  config, model, params = training_run.open_decoder(
    initial, mesh=mesh, tokenizer_sha256=sha256
  )
  training_run.run(
    output=output,
    init=model.init,
    params=params,
    logical_axes=model.logical_axes(),
    loss_fn=losses.cross_entropy_loss(
      model.apply,
      z_loss=z_loss,
      backend=linear_cross_entropy.default_backend(),
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    mesh=mesh,
    batch_source=lambda state: source(int(state.step)),
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **training_run.model_metadata(config, sha256),
      "batch_size": batch_size,
      "seed": seed,
    },
  )
  print(f"Model: {output}")
