"""Job: alignment by RLOO, through the one training loop."""

import json
import os

import jax
import numpy as np

from beam_pipelines import langid
from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import generation, reward_model, rewards, rloo, scoring
from mlm.checkpoints import manager
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.instructions import records as records_lib
from mlm.jobs import models, train_reward_model, training_run
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load, special
from mlm.training import state as train_state
from mlm.training import step
from mlm.training.optimizers import Optimizer


def open_score(
  directory: str, *, model, config, mesh, tokenizer: str, processor
):
  """The scoring function of a trained reward model; see `scoring.make_score`."""
  path = os.path.join(directory, train_reward_model.CALIBRATION_FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {path}; run train_reward_model to its end first"
    )
  with open(path) as f:
    calibration = json.load(f)
  abstract = jax.eval_shape(
    lambda key: reward_model.init(model.init(key), config.d_model),
    jax.random.key(0),
  )
  axes = {"decoder": model.logical_axes(), "score": ("embed",)}
  params = manager.restore_params(
    models.checkpoints_of(directory),
    train_state.with_shardings(
      abstract, rules.named_shardings(mesh, axes, abstract)
    ),
    metadata={"tokenizer_sha256": load.read_card(tokenizer)["model_sha256"]},
  )
  return scoring.make_score(
    apply=model.apply,
    reward_params=params,
    mean=calibration["mean"],
    std=calibration["std"],
    place=step.make_place(mesh),
    processor=processor,
    identify=langid.identify,
  )


def align_rloo(
  *,
  tokenizer: str,
  initial: str,
  reward_model_dir: str,
  records: str,
  output: str,
  tasks: list,
  optimizer: Optimizer,
  mesh_shape: dict,
  prompts_per_step: int,
  samples_per_prompt: int,
  prompt_length: int,
  response_length: int,
  num_steps: int,
  sampling_temperature: float,
  language_temperature: float,
  reward_weights: dict,
  kl_coefficient: float,
  seed: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Aligns the fine-tuned decoder with RLOO against a frozen copy of itself.

  Args:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of finetune; also the frozen reference.
    reward_model_dir: output directory of train_reward_model.
    records: output directory of make_instructions; train prompts are used.
    output: directory for checkpoints and metrics.
    tasks: tasks whose prompts are used.
    optimizer: of `mlm.training.optimizers`.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    prompts_per_step: B.
    samples_per_prompt: k >= 2.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    num_steps: updates, one for each rollout.
    sampling_temperature: of the rollouts; training logits are not divided by
      it, so only 1.0 is on-policy and other values are refused.
    language_temperature: T of p ∝ n^(1/T) over prompts.
    reward_weights: part -> weight, see `mlm.alignment.rewards`.
    kl_coefficient: beta.
    seed: of prompts and samples.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  if sampling_temperature != 1.0:
    raise ValueError(
      f"sampling_temperature {sampling_temperature}: log-probabilities are "
      "taken at temperature 1, so samples at another are off-policy; use 1.0"
    )
  if set(reward_weights) != {*rewards.PARTS, "reward_model"}:
    raise ValueError(
      f"reward_weights {sorted(reward_weights)} must name exactly "
      f"{sorted([*rewards.PARTS, 'reward_model'])}"
    )
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(prompts_per_step, mesh)
  processor = load.load(tokenizer)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  chosen = [
    r
    for r in records_lib.read_records(os.path.join(records, "train.jsonl"))
    if r["task"] in tasks
  ]
  draw = prompts.record_drawer(
    chosen,
    batch_size=prompts_per_step,
    temperature=language_temperature,
    seed=seed,
  )

  def prompts_of_step(number):
    drawn = draw(number)
    return {
      **generation.prompt_arrays(
        drawn, processor=processor, prompt_length=prompt_length
      ),
      "language_ids": np.array(
        [registry.index(r["language"]) for r in drawn], np.int32
      ),
    }

  config, model, reference = models.open_decoder(
    initial, mesh=mesh, tokenizer_sha256=sha256
  )
  backend = linear_cross_entropy.default_backend()
  place = step.make_place(mesh)
  source = rloo.make_batch_source(
    prompts=prompts_of_step,
    sample=rollouts.make_sampler(
      model,
      response_length=response_length,
      samples_per_prompt=samples_per_prompt,
      temperature=sampling_temperature,
      eos_id=special.EOS_ID,
      pad_id=special.PAD_ID,
    ),
    to_batch=lambda rows, language_ids: prompts.response_batch(
      rows, language_ids, prompt_length=prompt_length
    ),
    place=place,
    logprob_pair=rloo.make_logprob_pair(model.apply, backend=backend),
    reference=reference,
    score=open_score(
      reward_model_dir,
      model=model,
      config=config,
      mesh=mesh,
      tokenizer=tokenizer,
      processor=processor,
    ),
    reward_of_parts=lambda parts: rewards.weighted_sum(parts, reward_weights),
    kl_coefficient=kl_coefficient,
    seed=seed,
    eos_id=special.EOS_ID,
  )
  training_run.run(
    output=output,
    part=models.Part(
      init=model.init,
      # The first update is given the policy's own buffers to overwrite.
      params=jax.tree.map(lambda x: x.copy(), reference),
      logical_axes=model.logical_axes(),
    ),
    loss_fn=rloo.rloo_loss(
      model.apply, backend=backend, num_languages=registry.NUM_LANGUAGES
    ),
    optimizer=optimizer,
    mesh=mesh,
    batch_source=source,
    num_steps=num_steps,
    seed=seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **models.metadata_of(config, sha256),
      "reward_weights": reward_weights,
      "kl_coefficient": kl_coefficient,
      "samples_per_prompt": samples_per_prompt,
      "seed": seed,
    },
  )
  print(f"Model: {output}")
