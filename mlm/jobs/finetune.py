"""Job: supervised fine-tuning on packed rows of cached examples."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from mlm.data import (
  example_mixture,
  example_store,
  packing,
  sampling,
)
from mlm.data import schedule as schedule_lib
from mlm.jobs import models, training_run
from mlm.models import adapters as adapters_lib
from mlm.models import counting, decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load
from mlm.training import losses, progress, step
from mlm.training.optimizers import MakeOptimizer


def finetune(
  *,
  tokenizer: str,
  initial: str,
  examples: str,
  output: str,
  optimizer: MakeOptimizer,
  mesh_shape: dict,
  batch_size: int,
  sequence_length: int | Mapping[str, int],
  too_long: str,
  adapters: adapters_lib.AdapterConfig | None,
  num_steps: int,
  sampler: example_mixture.Sampler,
  make_loss: Callable,
  num_microbatches: int,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Fine-tunes a model on prompts and responses, loss on the response only.

  Args:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of pretrain, of either family.
    examples: output directory of cache_records or cache_mixture.
    output: directory for mixture.json, checkpoints and metrics.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: rows a step.
    sequence_length: tokens a row, into which whole examples are packed; of an
      encoder–decoder {"inputs": tokens, "targets": tokens}.
    too_long: of `packing.PackedRows`: "refuse" or "truncate" examples that no
      row can hold.
    adapters: those to train over the model; None to train the model.
    num_steps: updates.
    sampler: of `mlm.data.example_mixture`, shares of the examples.
    make_loss: of `mlm.jobs.cross_entropy`.
    num_microbatches: parts of a batch whose gradients are added up.
    seed: of the data order and steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  step.check_microbatches(batch_size, num_microbatches, mesh)
  layout, flops_per_row = _rows_of(initial, sequence_length, mesh)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  stores = [
    example_store.ExampleStore(examples, task, "train", sha256)
    for task in example_store.cached_tasks(examples, "train")
  ]
  rates = sampler(
    examples,
    {
      store.task: (
        example_mixture.source_of(store.task, store.language),
        store.num_examples,
      )
      for store in stores
    },
  )
  rows = {
    store.task: packing.PackedRows(store, layout, too_long=too_long, seed=seed)
    for store in stores
    if store.task in rates
  }
  plan = example_mixture.plan(rows, rates, num_rows=num_steps * batch_size)
  print(example_mixture.format_plan(plan))
  unused = sorted({store.task for store in stores} - rates.keys())
  print(f"Cached and not drawn: {', '.join(unused) or 'none'}", flush=True)
  for line in example_mixture.many_epochs(plan):
    logging.warning(line)
  if jax.process_index() == 0:
    sampling.write_plan(
      [dataclasses.asdict(row) for row in plan],
      os.path.join(output, training_run.MIXTURE_FILE),
    )
  row_rates = {row.task: row.row_rate for row in plan}
  batch = packing.batch_function(
    rows=rows,
    schedule=schedule_lib.Schedule(
      [schedule_lib.Phase(0, row_rates)], batch_size=batch_size, seed=seed
    ),
    places=rules.local_rows(mesh, batch_size),
  )
  opened = models.open_model(
    initial, mesh=mesh, metadata={"tokenizer_sha256": sha256}
  )
  part = models.trained_part(initial, opened, adapters)
  describe = progress.nothing
  if adapters is None:
    describe = training_run.throughput(batch_size * flops_per_row)
  training_run.run(
    output=output,
    part=part,
    loss_fn=losses.with_frozen(make_loss, part.apply),
    num_microbatches=num_microbatches,
    optimizer=optimizer,
    mesh=mesh,
    batch_source=training_run.mixture_source(
      batch,
      num_steps=num_steps,
      planned=lambda *_: row_rates,
      observe=example_mixture.rows_by_task(plan),
      unit="rows",
      period=checkpoint_period,
    ),
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **models.metadata_of(opened.config, sha256),
      "batch_size": batch_size,
      "sequence_length": sequence_length,
      "rates": rates,
      "seed": seed,
    },
    place=step.make_place_local(mesh, batch_size),
    describe=describe,
  )
  print(f"Model: {output}")


def _rows_of(
  initial: str, sequence_length: int | Mapping[str, int], mesh: Mesh
) -> tuple[packing.Layout, float]:
  """How a model reads examples, and the FLOPs of a row.

  Raises:
    ValueError: if the lengths are not those of the model's family, or the mesh
      does not divide them.
  """
  config = models.config_of(initial)
  if isinstance(config, decoder.DecoderConfig):
    if not isinstance(sequence_length, int):
      raise ValueError(
        f"{initial} holds a decoder, whose rows have one length; set "
        f"SEQUENCE_LENGTH to a number instead of {sequence_length}"
      )
    rules.check_lengths({"an example": sequence_length}, mesh)
    return (
      packing.response(length=sequence_length),
      sequence_length
      * counting.training_flops_per_token(config, sequence_length),
    )
  if isinstance(sequence_length, int) or set(sequence_length) != {
    "inputs",
    "targets",
  }:
    raise ValueError(
      f"{initial} holds an encoder–decoder, whose rows have two lengths; set "
      "SEQUENCE_LENGTH to {'inputs': n, 'targets': m} instead of "
      f"{sequence_length}"
    )
  rules.check_lengths(sequence_length, mesh)
  inputs, targets = sequence_length["inputs"], sequence_length["targets"]
  return (
    packing.encoder_decoder(inputs_length=inputs, targets_length=targets),
    counting.encoder_decoder_training_flops(config, inputs, targets),
  )
