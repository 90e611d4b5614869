"""Job: pretraining on a mixture of languages."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import jax

from mlm.checkpoints import manager
from mlm.data import (
  indexed,
  objectives,
  sampling,
  task_names,
  token_stream,
)
from mlm.data import (
  phases as phases_lib,
)
from mlm.data import schedule as schedule_lib
from mlm.jobs import models, training_run
from mlm.languages import samplers
from mlm.models import adapters as adapters_lib
from mlm.models import counting, decoder, families
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import count, load
from mlm.training import losses, progress, step
from mlm.training.optimizers import MakeOptimizer


def pretrain(
  *,
  tokens: str,
  tokenizer: str,
  initial: str | None,
  output: str,
  model: families.Config,
  adapters: adapters_lib.AdapterConfig | None,
  optimizer: MakeOptimizer,
  mesh_shape: dict,
  batch_size: int,
  objective: objectives.Objective,
  num_steps: int,
  phases: Sequence[tuple[int, samplers.Sampler]],
  make_loss: Callable,
  num_microbatches: int,
  seed: int,
  checkpoint_period: int,
  log_period: int,
  keep_period: int | None = None,
) -> None:
  """Pretrains a decoder or an encoder–decoder on all languages of a corpus.

  Started again, it goes on from its last checkpoint, and may then have further
  phases that start at steps not yet made: no earlier batch changes.

  Args:
    tokens: directory of the job cache_tokens.
    tokenizer: tokenizer directory, the one that made the tokens.
    initial: output directory of pretrain or extend_model to go on from, of the
      same model and tokenizer; None starts with fresh params.
    output: directory for mixture.json, checkpoints and metrics.
    model: shape of the model.
    adapters: those to train over the initial model; None to train the model.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: rows a step, over all devices.
    objective: of `mlm.data.objectives` or `mlm.data.ul2`; makes rows of text.
    num_steps: updates.
    phases: (first step, how much of each language from there on, a sampler of
      `mlm.languages.samplers`) in order, the first from step 0.
    make_loss: of `mlm.jobs.cross_entropy`.
    num_microbatches: parts of a batch whose gradients are added up.
    seed: of params, data order and steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
    keep_period: checkpoints of its multiples are kept for ever, beside the
      latest ones; None for none.
  """
  if adapters is not None and initial is None:
    raise ValueError(
      "adapters are trained over a model, and there is none; set INITIAL to the "
      "output directory of one"
    )
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  step.check_microbatches(batch_size, num_microbatches, mesh)
  card = load.read_card(tokenizer)
  vocab_size = load.load(tokenizer).get_piece_size()
  if vocab_size > model.vocab_size:
    raise ValueError(
      f"the tokenizer has {vocab_size} pieces but the model's vocab_size is "
      f"{model.vocab_size}; set VOCAB_SIZE to at least {vocab_size}"
    )
  objectives.check_ids(
    objective, num_pieces=vocab_size, vocab_size=model.vocab_size
  )
  shapes = objectives.row_shapes(objective)
  rules.check_lengths(shapes, mesh)
  is_decoder = isinstance(model, decoder.DecoderConfig)
  if is_decoder == ("encoder_input_tokens" in shapes):
    raise ValueError(
      f"the objective {objective.settings['objective']!r} makes rows for "
      f"{'an encoder–decoder' if is_decoder else 'a decoder'}, the model is "
      f"{'a decoder' if is_decoder else 'an encoder–decoder'}; change one"
    )
  counts = count.read_token_counts(tokenizer)
  task_of = {
    task_names.task_language(name): name
    for name in token_stream.cached_tasks(tokens, "train")
  }
  num_tokens = num_steps * batch_size * objective.raw_length
  planned, plan = phases_lib.plan_run(
    counts,
    phases=phases,
    num_steps=num_steps,
    step_tokens=batch_size * objective.raw_length,
    languages=list(task_of),
  )
  recorded = [dataclasses.asdict(phase) for phase in planned]
  _check_phases(output, recorded)
  streams = {
    code: token_stream.TokenStream(tokens, task, "train", card["model_sha256"])
    for code, task in task_of.items()
  }
  batch = indexed.batch_function(
    streams={task_of[code]: stream for code, stream in streams.items()},
    schedule=schedule_lib.Schedule(
      [
        schedule_lib.Phase(
          phase.start_step,
          {task_of[code]: rate for code, rate in phase.rates.items()},
        )
        for phase in planned
      ],
      batch_size=batch_size,
      seed=seed,
    ),
    objective=objective,
    seed=seed,
    places=rules.local_rows(mesh, batch_size),
  )
  real = indexed.real_shares(
    {code: stream.num_tokens for code, stream in streams.items()}, objective
  )
  if jax.process_index() == 0:
    phases_lib.write_plan(
      os.path.join(output, training_run.MIXTURE_FILE),
      phases=planned,
      rows=plan,
      real=real,
    )
  if len(planned) > 1:
    print(f"{phases_lib.format_phases(planned)}\n")
  print(
    sampling.format_plan(
      plan,
      shares={f"real {name.split('_')[0]}": of for name, of in real.items()},
    )
  )
  if is_decoder:
    length = shapes["decoder_input_tokens"]
    flops = length * counting.training_flops_per_token(model, length)
  else:
    flops = counting.encoder_decoder_training_flops(
      model, shapes["encoder_input_tokens"], shapes["decoder_input_tokens"]
    )
  print(
    f"\n{counting.num_params(model):,} parameters, "
    f"{counting.training_state_bytes(model) / 2**20:,.0f} MiB of state, "
    f"{num_tokens:,} tokens in {num_steps:,} steps, {flops * num_steps * batch_size:.3g} FLOPs",
    flush=True,
  )
  part = models.everything(model, None)
  if initial is not None:
    opened = models.open_model(
      initial,
      mesh=mesh,
      metadata=models.metadata_of(model, card["model_sha256"]),
    )
    part = models.trained_part(initial, opened, adapters)
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
      planned=functools.partial(phases_lib.mean_rates, planned),
      observe=sampling.tokens_by_language,
      unit="tokens",
      period=checkpoint_period,
    ),
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **models.metadata_of(model, card["model_sha256"]),
      "batch_size": batch_size,
      "objective": objective.settings,
      "seed": seed,
    },
    changing={"phases": recorded},
    keep_period=keep_period,
    describe=_describe(
      output,
      flops_per_step=flops * batch_size,
      counts=counts if is_decoder else {},
      is_causal=objective.settings["objective"] == "causal",
    ),
    place=step.make_place_local(mesh, batch_size),
  )
  print(f"Model: {output}")


def _describe(
  output: str, *, flops_per_step: float, counts: dict, is_causal: bool
) -> progress.Describe:
  """Rates, epochs, and bits a byte where every token of a text has a loss.

  Args:
    output: of the run, to go on counting epochs.
    flops_per_step: of the whole batch.
    counts: of `count.read_token_counts`; empty where targets are but a part of
      the tokens.
    is_causal: whether every token is a target.
  """
  describes = [training_run.throughput(flops_per_step)]
  of_train = {code: of["train"] for code, of in counts.items()}
  if of_train:
    tokens = {code: of["tokens"] for code, of in of_train.items()}
    describes.append(
      progress.epochs(
        tokens_available=tokens, before=training_run.lines_before(output)
      )
    )
  if is_causal:
    describes.append(
      progress.bits_per_byte(
        {
          code: of["bytes"] / of["tokens"]
          for code, of in of_train.items()
          if of["tokens"]
        }
      )
    )
  return progress.together(*describes)


def _check_phases(output: str, phases: list[dict]) -> None:
  """Raises ValueError if phases that a checkpoint has begun were others."""
  directory = models.checkpoints_of(output)
  made = manager.latest_step(directory)
  if made is not None:
    before = manager.read_metadata(directory).get("phases", [])
    phases_lib.check_begun(before, phases, step=made)
