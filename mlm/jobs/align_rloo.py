"""Job: alignment by RLOO or a relative of it, through the one training loop."""

import dataclasses
import functools
import os

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import estimators, rewards, rloo, stop_rules
from mlm.jobs import rollout_jobs, training_run
from mlm.languages import registry
from mlm.training import losses
from mlm.training.optimizers import MakeOptimizer

HISTORY_FILE = "rewards.jsonl"  # what a moving average is taken over


def align_rloo(
  *,
  rollouts: rollout_jobs.Settings,
  output: str,
  optimizer: MakeOptimizer,
  updates_per_rollout: int,
  estimator: estimators.Estimator,
  stop_rule: stop_rules.Rule | None,
  num_steps: int,
  checkpoint_period: int,
  log_period: int,
) -> None:
  """Aligns the fine-tuned decoder with RLOO against a frozen copy of itself.

  Or with another policy gradient: what libraries do differently is `estimator`.

  Args:
    rollouts: the policy, its prompts, samples and rewards.
    output: directory for checkpoints and metrics.
    optimizer: of `mlm.training.optimizers`.
    updates_per_rollout: steps whose responses are sampled from one policy, each
      learned from once; checkpoint_period must be a multiple.
    estimator: of the gradient; see `mlm.alignment.estimators`.
    stop_rule: ends the run with an error where the mean of the verifiable parts
      falls in a language while the learned reward rises; None for none.
    num_steps: updates.
    checkpoint_period: steps between checkpoints.
    log_period: steps a line of metrics.
  """
  rollout_jobs.check_periods(checkpoint_period, updates_per_rollout)
  setup = rollout_jobs.open_rollouts(
    rollouts, steps_per_rollout=1, output=output
  )
  part = setup.part
  source = rloo.make_batch_source(
    setup.rollout,
    policy_of=lambda params: part.join(params, part.frozen),
    estimator=estimator,
    updates_per_rollout=updates_per_rollout,
    history=os.path.join(output, HISTORY_FILE),
  )
  if stop_rule is not None:
    source = stop_rules.watched(
      source,
      rule=stop_rule,
      verified=rewards.PARTS,
      proxy=setup.learned,
      codes=registry.codes(),
      num_steps=num_steps,
      num_languages=len(setup.languages),
      samples_per_prompt=rollouts.samples_per_prompt,
      output=output,
      on_told=stop_rules.stop,
    )
  training_run.run(
    output=output,
    part=part,
    loss_fn=losses.with_frozen(
      functools.partial(
        rloo.rloo_loss,
        estimator=estimator,
        backend=linear_cross_entropy.default_backend(),
        num_languages=registry.NUM_LANGUAGES,
      ),
      part.apply,
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=setup.mesh,
    batch_source=source,
    num_steps=num_steps,
    seed=rollouts.seed,
    checkpoint_period=checkpoint_period,
    log_period=log_period,
    metadata={
      **setup.metadata,
      "estimator": dataclasses.asdict(estimator),
      "updates_per_rollout": updates_per_rollout,
    },
  )
  print(f"Model: {output}")
