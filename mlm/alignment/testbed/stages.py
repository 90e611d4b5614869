"""The stages of an experiment on one compiled program each: fine-tuning, reward
model, DPO, RLOO, sampling and scoring.

Every trial goes through the one training loop. A program is compiled once and
serves all seeds and mixtures.

Letters: B prompts, K samples a prompt, N rows, P prompt and R response columns.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import (
  dpo,
  estimators,
  generation,
  reward_model,
  rloo,
  rollout_batches,
)
from mlm.alignment.testbed.annotators import Pairs
from mlm.alignment.testbed.settings import Settings
from mlm.alignment.testbed.tasks import Task
from mlm.data import prompts as prompts_lib
from mlm.decoding import rollouts
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import special
from mlm.training import loop, loss_weights, losses, progress, step
from mlm.training import state as train_state
from mlm.training.optimizers import MakeOptimizer

_LOG_PERIOD = 20
_MAX_LOGPROB_GAP = 1e-2  # nats; models here are float32, which rounds by less


class _NoCheckpoints:
  """For stages that are made again whole when an experiment is resumed."""

  def save(self, step, state):
    pass

  def wait(self):
    pass


class Stages(NamedTuple):
  """What an experiment is made of; see `make_stages`.

  Attributes:
    finetune: (seed, output) -> policy params.
    train_reward_model: (reference params, Pairs, seed, output) -> its params.
    align_dpo: (reference params, Pairs, rate, beta, seed, output) -> params.
    align_rloo: (reference params, prompts [B, P], language ids [B], score,
      rate, beta, watch, seed, output) -> params; score is (prompts [N, P],
      responses [N, R]) -> {part: [N]} with a part "reward", which is
      maximised, and watch wraps the batch source.
    sample: (params, prompts [B, P], K, seed, step) -> int32 [B, K, R].
    reward: (reward params, prompts [N, P], responses [N, R]) -> float32 [N].
    logprob_ratio: (params, reference params, prompts, responses) -> float32
      [N], log pi / pi_ref of the responses in nats.
  """

  finetune: Callable
  train_reward_model: Callable
  align_dpo: Callable
  align_rloo: Callable
  sample: Callable
  reward: Callable
  logprob_ratio: Callable


def _copy(params):
  """The first step is given the buffers of what it starts from to overwrite."""
  return jax.tree.map(lambda x: x.copy(), params)


def make_stages(
  *,
  task: Task,
  config: decoder.DecoderConfig,
  optimizer: Callable[[float, int], MakeOptimizer],
  settings: Settings,
  mesh: Mesh,
) -> Stages:
  """Builds the stages.

  Args:
    task: of the prompts.
    config: of the policy and of the decoder below the reward model.
    optimizer: (peak learning rate, number of steps) -> optimizer.
    settings: sizes, numbers of steps and rates.
    mesh: of `mlm.sharding.mesh.make_mesh`.

  Raises:
    ValueError: if the model's vocabulary is not the task's.
  """
  if config.vocab_size != task.vocab_size:
    raise ValueError(
      f"the model's vocabulary of {config.vocab_size} is not the task's "
      f"{task.vocab_size}; set VOCAB_SIZE to {task.vocab_size}"
    )
  model = decoder.build(config)
  backend = linear_cross_entropy.default_backend()
  place = step.make_place(mesh)
  num_languages = len(task.languages)

  def stage(*, loss_fn, init, logical_axes, rate, num_steps):
    of_axes = optimizer(rate, num_steps)(logical_axes)
    shardings = train_state.state_shardings(
      mesh, logical_axes, train_state.abstract(init=init, optimizer=of_axes)
    )
    step_fn = step.make_train_step(
      loss_fn=loss_fn,
      optimizer=of_axes,
      num_microbatches=1,
      mesh=mesh,
      state_shardings=shardings,
    )

    def run(params, batch_source, seed, output):
      os.makedirs(output, exist_ok=True)
      state = loop.train(
        state=train_state.from_params(
          params=_copy(params), optimizer=of_axes, shardings=shardings
        ),
        batch_source=batch_source,
        place=place,
        step_fn=step_fn,
        frozen=None,
        num_steps=num_steps,
        seed=seed,
        checkpointer=_NoCheckpoints(),
        checkpoint_period=_LOG_PERIOD,
        log_period=_LOG_PERIOD,
        output=output,
        language_codes=task.languages,
        describe=progress.nothing,
      )
      return state.params

    return run

  def of_policy(loss_fn, rate, num_steps):
    return stage(
      loss_fn=loss_fn,
      init=model.init,
      logical_axes=model.logical_axes(),
      rate=rate,
      num_steps=num_steps,
    )

  def response_batch(prompts, responses, language_ids):
    return prompts_lib.response_batch(
      np.concatenate([prompts, responses], axis=1),
      language_ids,
      prompt_length=task.prompt_length,
    )

  cross_entropy = losses.cross_entropy_loss(
    model.apply,
    z_loss=0.0,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend=backend,
    num_languages=num_languages,
  )
  run_finetune = of_policy(cross_entropy, settings.sft_rate, settings.sft_steps)

  def finetune(seed, output):
    def source(state):
      rng = np.random.default_rng((seed, int(state.step)))
      rows, language_ids = task.demonstrations(rng, settings.sft_batch)
      return prompts_lib.response_batch(
        rows, language_ids, prompt_length=task.prompt_length
      )

    init = jax.jit(model.init)(jax.random.key(seed))
    return run_finetune(init, source, seed, output)

  run_reward_model = stage(
    loss_fn=reward_model.bradley_terry_loss(
      model.apply,
      centering=settings.reward_centering,
      num_languages=num_languages,
      pad_id=special.PAD_ID,
    ),
    init=lambda key: reward_model.init(model.init(key), config.d_model),
    logical_axes=reward_model.logical_axes(model.logical_axes()),
    rate=settings.reward_rate,
    num_steps=settings.reward_steps,
  )

  def train_reward_model(reference, pairs, seed, output):
    draw = _drawer(
      pairs.language_ids, batch_size=settings.reward_pairs_per_step, seed=seed
    )

    def source(state):
      drawn = Pairs(*(x[draw(int(state.step))] for x in pairs))
      return {
        **{
          f"{side}_rows": np.concatenate([drawn.prompts, responses], axis=1)
          for side, responses in (
            ("chosen", drawn.chosen),
            ("rejected", drawn.rejected),
          )
        },
        "language_ids": drawn.language_ids,
        "margins": np.zeros(len(drawn.prompts), np.float32),
      }

    params = reward_model.init(reference, config.d_model)
    return run_reward_model(params, source, seed, output)

  @functools.cache
  def run_dpo(rate, beta):
    objective = dpo.Objective(
      loss="logistic",
      beta=beta,
      label_smoothing=0.0,
      per_token=False,
      sft_weight=0.0,
    )
    loss_fn = dpo.preference_loss(
      model.apply,
      objective=objective,
      backend=backend,
      num_languages=num_languages,
    )
    return of_policy(loss_fn, rate, settings.dpo_steps)

  sequence_logprobs = mesh_lib.jit(
    functools.partial(losses.sequence_logprobs, model.apply, backend=backend)
  )

  def logprobs(params, prompts, responses):
    def of_rows(prompts, responses):
      language_ids = np.zeros(len(prompts), np.int32)
      batch = response_batch(prompts, responses, language_ids)
      return sequence_logprobs(params, place(batch))

    return generation.in_batches(
      of_rows, (prompts, responses), settings.rows_at_once
    )

  def align_dpo(reference, pairs, rate, beta, seed, output):
    references = [
      logprobs(reference, pairs.prompts, responses)
      for responses in (pairs.chosen, pairs.rejected)
    ]
    draw = _drawer(
      pairs.language_ids, batch_size=settings.pairs_per_step, seed=seed
    )

    def source(state):
      drawn = draw(int(state.step))
      sides = np.stack([pairs.chosen[drawn], pairs.rejected[drawn]], axis=1)
      language_ids = np.repeat(pairs.language_ids[drawn], 2)
      batch = response_batch(
        np.repeat(pairs.prompts[drawn], 2, axis=0),
        sides.reshape(-1, task.response_length),
        language_ids,
      )
      return {
        **batch,
        "language_ids": language_ids,
        "reference_logprobs": np.stack(
          [x[drawn] for x in references], axis=1
        ).reshape(-1),
      }

    return run_dpo(rate, beta)(reference, source, seed, output)

  @functools.cache
  def run_rloo(rate):
    # With the KL in the reward its coefficient is in the batch, not the loss.
    loss_fn = rloo.rloo_loss(
      model.apply,
      estimator=estimators.paper(kl_coefficient=0.0),
      backend=backend,
      num_languages=num_languages,
    )
    return of_policy(loss_fn, rate, settings.rloo_steps)

  @functools.cache
  def sampler(num_samples):
    return rollouts.make_sampler(
      model,
      response_length=task.response_length,
      samples_per_prompt=num_samples,
      temperature=1.0,
      eos_id=special.EOS_ID,
      pad_id=special.PAD_ID,
    )

  rollout_logprobs = rollout_batches.make_rollout_logprobs(
    model.apply, model.apply, backend=backend
  )

  def align_rloo(
    reference, prompts, language_ids, score, rate, beta, watch, seed, output
  ):
    draw = _drawer(
      language_ids, batch_size=settings.prompts_per_step, seed=seed
    )

    def prompts_of_step(number):
      drawn = draw(number)
      return {
        "prompts": prompts[drawn],
        "prompt_ids": drawn.astype(np.uint32),
        "language_ids": language_ids[drawn],
      }

    rollout = rollout_batches.make_rollout(
      prompts=prompts_of_step,
      sample=sampler(settings.samples_per_prompt),
      to_batch=lambda rows, language_ids: prompts_lib.response_batch(
        rows, language_ids, prompt_length=task.prompt_length
      ),
      place=place,
      logprobs=rollout_logprobs,
      reference=reference,
      score=lambda rows, responses, language_ids: score(
        rows[:, : task.prompt_length], responses
      ),
      reward_of_parts=lambda parts: parts["reward"],
      max_logprob_gap=_MAX_LOGPROB_GAP,
      seed=seed,
      eos_id=special.EOS_ID,
    )
    source = rloo.make_batch_source(
      rollout,
      policy_of=lambda params: params,
      estimator=estimators.paper(kl_coefficient=beta),
      updates_per_rollout=1,
      history=os.path.join(output, "rewards.jsonl"),
    )
    os.makedirs(output, exist_ok=True)
    return run_rloo(rate)(reference, watch(source), seed, output)

  def sample(params, prompts, num_samples, seed, number):
    draw = sampler(num_samples)

    def of_rows(prompts, prompt_ids):
      placed = place({"prompts": prompts, "prompt_ids": prompt_ids})
      return draw(params, *placed.values(), seed, number).tokens

    size = settings.rows_at_once // num_samples // mesh.size * mesh.size
    size = max(size, mesh.size)
    prompt_ids = np.arange(len(prompts), dtype=np.uint32)
    return generation.in_batches(of_rows, (prompts, prompt_ids), size)

  scores = mesh_lib.jit(
    lambda params, rows: reward_model.scores(
      model.apply, params, rows, pad_id=special.PAD_ID
    )
  )

  def reward(params, prompts, responses):
    def of_rows(rows):
      return scores(params, place({"rows": rows})["rows"])

    rows = np.concatenate([prompts, responses], axis=1)
    # RLOO's few rows of a step are not filled up to a whole batch.
    size = min(settings.rows_at_once, -(-len(rows) // mesh.size) * mesh.size)
    return generation.in_batches(of_rows, (rows,), size)

  return Stages(
    finetune=finetune,
    train_reward_model=train_reward_model,
    align_dpo=align_dpo,
    align_rloo=align_rloo,
    sample=sample,
    reward=reward,
    logprob_ratio=lambda params, reference, prompts, responses: (
      logprobs(params, prompts, responses)
      - logprobs(reference, prompts, responses)
    ),
  )


def _drawer(
  language_ids: np.ndarray, *, batch_size: int, seed: int
) -> Callable[[int], np.ndarray]:
  """step -> indices of rows, languages as often as they have rows."""
  records = [
    {"language": str(language), "index": index}
    for index, language in enumerate(language_ids)
  ]
  draw = prompts_lib.record_drawer(
    records, batch_size=batch_size, temperature=1.0, seed=seed
  )
  return lambda step: np.array([r["index"] for r in draw(step)])
