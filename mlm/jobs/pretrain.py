"""Job: pretraining on a mixture of languages."""

import os

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.data import loader, mixtures, sampling, tasks
from mlm.jobs import training_run
from mlm.languages import registry
from mlm.models import counting, decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import count, load
from mlm.training import losses
from mlm.training.optimizers import Optimizer

MIXTURE_FILE = "mixture.json"
_PREFIX = "mc4"


def pretrain(
  *,
  corpus: str,
  tokenizer: str,
  output: str,
  model: decoder.DecoderConfig,
  optimizer: Optimizer,
  mesh_shape: dict,
  batch_size: int,
  sequence_length: int,
  num_steps: int,
  temperature: float,
  z_loss: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Pretrains a decoder on all languages of a corpus.

  Args:
    corpus: finished corpus directory.
    tokenizer: tokenizer directory, trained on that corpus.
    output: directory for mixture.json, checkpoints and metrics.
    model: shape of the decoder.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: {"data", "fsdp", "tensor"} -> devices.
    batch_size: rows a step, over all devices.
    sequence_length: tokens a row.
    num_steps: updates.
    temperature: T of p ∝ n^(1/T) over tokens.
    z_loss: weight of the squared log-normalizer.
    seed: of params, data order and steps.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  card = load.read_card(tokenizer)
  vocab_size = load.load(tokenizer).get_piece_size()
  if vocab_size > model.vocab_size:
    raise ValueError(
      f"the tokenizer has {vocab_size} pieces but the model's vocab_size is "
      f"{model.vocab_size}; set VOCAB_SIZE to at least {vocab_size}"
    )
  counts = count.read_token_counts(tokenizer)
  names = tasks.register_tasks(
    corpus=corpus,
    tokenizer=tokenizer,
    sequence_length=sequence_length,
    prefix=_PREFIX,
  )
  plan = sampling.mixture_plan(
    counts,
    temperature=temperature,
    num_tokens=num_steps * batch_size * sequence_length,
    languages=[tasks.task_language(name) for name in names],
  )
  mixtures.register_mixture(
    name=_PREFIX,
    tasks=names,
    token_shares={row.language: row.rate for row in plan},
    tokens_per_example=count.tokens_per_example(
      counts, split="train", sequence_length=sequence_length
    ),
  )
  print(sampling.format_plan(plan))
  sampling.write_plan(plan, os.path.join(output, MIXTURE_FILE))
  flops = counting.training_flops_per_token(model, sequence_length)
  tokens = num_steps * batch_size * sequence_length
  print(
    f"\n{counting.num_params(model):,} parameters, "
    f"{counting.training_state_bytes(model) / 2**20:,.0f} MiB of state, "
    f"{tokens:,} tokens in {num_steps:,} steps, {flops * tokens:.3g} FLOPs",
    flush=True,
  )
  built = decoder.build(model)
  batches = None

  def batch_source(state):
    nonlocal batches
    if batches is None:
      batches = loader.batches(
        mixture=_PREFIX,
        sequence_length=sequence_length,
        batch_size=batch_size,
        seed=seed,
        start_step=int(state.step),
      )
    return next(batches)

  training_run.run(
    output=output,
    init=built.init,
    params=None,
    logical_axes=built.logical_axes(),
    loss_fn=losses.cross_entropy_loss(
      built.apply,
      z_loss=z_loss,
      backend=linear_cross_entropy.default_backend(),
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    mesh=mesh,
    batch_source=batch_source,
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **training_run.model_metadata(model, card["model_sha256"]),
      "batch_size": batch_size,
      "sequence_length": sequence_length,
      "temperature": temperature,
      "seed": seed,
    },
  )
  print(f"Model: {output}")
