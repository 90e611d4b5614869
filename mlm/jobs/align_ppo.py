"""Job: alignment by PPO with a critic, the baseline that RLOO is compared with."""

import dataclasses
import os

import jax

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import ppo, reward_model
from mlm.checkpoints import manager
from mlm.jobs import models, reward_sources, rollout_jobs, training_run
from mlm.languages import registry
from mlm.training import step
from mlm.training.optimizers import MakeOptimizer

POLICY = "policy"  # folder of the policy alone, which other jobs read


def align_ppo(
  *,
  rollouts: rollout_jobs.Settings,
  output: str,
  optimizer: MakeOptimizer,
  settings: ppo.Settings,
  num_steps: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Aligns the fine-tuned decoder with PPO; the critic starts as the reward model.

  Args:
    rollouts: the policy, its prompts, samples and rewards.
    output: directory for checkpoints and metrics, and policy/, the trained
      policy alone, an output directory for other jobs.
    optimizer: of `mlm.training.optimizers`, of policy and critic.
    settings: of PPO; checkpoint_period and num_steps must be multiples of its
      updates a rollout.
    num_steps: updates.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  rollout_jobs.check_periods(checkpoint_period, settings.updates_per_rollout)
  if rollouts.adapters is not None:
    raise ValueError(
      "PPO trains policy and critic whole; set ADAPTERS to None, or use "
      "align_rloo"
    )
  if "reward_model" not in rollouts.reward_weights:
    raise ValueError(
      "PPO's critic starts as the reward model, and an implicit reward has "
      "none; use align_rloo"
    )
  setup = rollout_jobs.open_rollouts(
    rollouts, steps_per_rollout=settings.updates_per_rollout, output=output
  )
  critic = reward_sources.open_reward_model(
    rollouts.reward_model_dir, mesh=setup.mesh, tokenizer=rollouts.tokenizer
  )
  axes = setup.part.logical_axes
  state = training_run.run(
    output=output,
    part=models.Part(
      init=lambda key: {
        "policy": setup.model.init(key),
        "value": reward_model.init(setup.model.init(key), setup.config.d_model),
      },
      # The rewards go on being read from the params that the critic starts with.
      params={
        "policy": setup.part.params,
        "value": jax.tree.map(lambda x: x.copy(), critic),
      },
      logical_axes={"policy": axes, "value": reward_model.logical_axes(axes)},
    ),
    loss_fn=ppo.ppo_loss(
      setup.model.apply,
      setup.model.apply,
      settings=settings,
      backend=linear_cross_entropy.default_backend(),
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=setup.mesh,
    batch_source=ppo.make_batch_source(
      setup.rollout,
      value_apply=setup.model.apply,
      place=step.make_place(setup.mesh),
      settings=settings,
      seed=rollouts.seed,
    ),
    num_steps=num_steps,
    seed=rollouts.seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={**setup.metadata, "ppo": dataclasses.asdict(settings)},
  )
  policy = os.path.join(output, POLICY)
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(policy), keep=1, metadata=setup.metadata
  )
  if checkpointer.latest_step() != num_steps:
    checkpointer.save(
      num_steps,
      dataclasses.replace(state, params=state.params["policy"], opt_state=()),
    )
  checkpointer.close()
  print(f"Model: {policy}")
