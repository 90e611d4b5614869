"""What the jobs that learn from rollouts share: the gate, rewards, rollouts."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from beam_pipelines import langid
from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import (
  calibration,
  generation,
  reward_model,
  rewards,
  rollout_batches,
  scoring,
)
from mlm.checkpoints import manager
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.instructions import records as records_lib
from mlm.jobs import models, train_reward_model
from mlm.languages import registry
from mlm.models import adapters as adapters_lib
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load, special
from mlm.training import state as train_state
from mlm.training import step


def read_calibration(directory: str) -> dict:
  """What train_reward_model measured; see `calibration.summarize`."""
  path = os.path.join(directory, train_reward_model.CALIBRATION_FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {path}; run train_reward_model to its end first"
    )
  with open(path, encoding="utf-8") as f:
    return json.load(f)


def reward_model_identity(directory: str) -> dict:
  """{"fingerprint", "seed"} of a reward model, from its calibration.

  Raises:
    FileNotFoundError: if there is no calibration.
    ValueError: if the calibration was written before it held them.
  """
  found = read_calibration(directory)
  names = ("fingerprint", "seed")
  if missing := [name for name in names if name not in found]:
    raise ValueError(
      f"the calibration in {directory} has no {' and no '.join(missing)}; run "
      "train_reward_model again: it measures without training again"
    )
  return {name: found[name] for name in names}


def check_periods(checkpoint_period: int, updates_per_rollout: int) -> None:
  """Raises ValueError unless checkpoints fall between rollouts."""
  if updates_per_rollout < 1 or checkpoint_period % updates_per_rollout:
    raise ValueError(
      f"checkpoint_period {checkpoint_period} must be a multiple of "
      f"updates_per_rollout {updates_per_rollout}, at least 1, so that no "
      "rollout is cut in two by resuming"
    )


def check_above_chance(
  directory: str, languages: Sequence[str], *, chance_gate: str
) -> None:
  """Stops or warns before a policy learns from a reward model at chance.

  Args:
    directory: output directory of train_reward_model.
    languages: codes that the policy will be trained in.
    chance_gate: "refuse" or "warn".

  Raises:
    ValueError: with "refuse", if the model's held-out accuracy is not above a
      half with confidence in one of the languages; the message has the numbers.
  """
  if chance_gate not in ("refuse", "warn"):
    raise ValueError(f"chance_gate {chance_gate!r} must be 'refuse' or 'warn'")
  told = calibration.at_chance(read_calibration(directory), languages)
  if not told:
    return
  lines = "\n".join(f"  {code}: {why}" for code, why in told.items())
  message = (
    f"the reward model in {directory} is not above chance in {len(told)} of "
    f"{len(languages)} languages:\n{lines}\noptimizing it there is known to "
    "make answers worse; train it on more pairs of these languages, leave them out, "
    "or set CHANCE_GATE to 'warn'"
  )
  if chance_gate == "refuse":
    raise ValueError(message)
  logging.warning(message)


def open_reward_model(directory: str, *, model, config, mesh, tokenizer: str):
  """Params of a trained reward model.

  Args:
    directory: output directory of train_reward_model.
    model: decoder below the reward model.
    config: its configuration.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory.
  """
  abstract = jax.eval_shape(
    lambda key: reward_model.init(model.init(key), config.d_model),
    jax.random.key(0),
  )
  axes = reward_model.logical_axes(model.logical_axes())
  shardings = rules.named_shardings(mesh, axes, abstract)
  return manager.restore_params(
    models.checkpoints_of(directory),
    train_state.with_shardings(abstract, shardings),
    metadata={"tokenizer_sha256": load.read_card(tokenizer)["model_sha256"]},
  )


def open_score(
  directory: str,
  *,
  model,
  config,
  mesh,
  tokenizer: str,
  processor,
  languages: Sequence[str],
  standardize_by_language: bool,
):
  """The scoring function of a trained reward model; see `scoring.make_score`.

  Args:
    directory: output directory of train_reward_model.
    model: decoder below the reward model.
    config: its configuration.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory.
    processor: SentencePiece processor of it.
    languages: codes of what will be scored.
    standardize_by_language: see `calibration.standardization`.
  """
  mean, std = calibration.standardization(
    read_calibration(directory), languages, by_language=standardize_by_language
  )
  return scoring.make_score(
    raw_score=scoring.learned(
      reward_scores=scoring.make_reward_scores(model.apply),
      reward_params=open_reward_model(
        directory, model=model, config=config, mesh=mesh, tokenizer=tokenizer
      ),
      place=step.make_place(mesh),
    ),
    mean=mean,
    std=std,
    processor=processor,
    identify=langid.identify,
  )


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of the rollouts.

  Attributes:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of finetune; also the frozen reference.
    reward_model_dir: output directory of train_reward_model.
    records: output directory of make_instructions; train prompts are used.
    tasks: tasks whose prompts are used.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    prompts_per_step: B.
    samples_per_prompt: k; at least 2 where siblings are the baseline.
    prompt_lengths: of a batch's prompts, the least that holds them is taken;
      the last is the largest.
    response_length: tokens of a response.
    sampling_temperature: training logits are not divided by it, so only 1.0 is
      on-policy and other values are refused.
    language_temperature: T of p ∝ n^(1/T) over prompts.
    reward_weights: part -> weight, see `mlm.alignment.rewards`.
    standardize_by_language: whether the learned reward has mean 0 and deviation
      1 over the reference's samples in each language, or in all together.
    chance_gate: "refuse" or "warn" where the reward model's held-out accuracy
      in a language of the prompts is not above a half with confidence.
    adapters: those to train over the model, which then is the reference as it
      is; None to train the model, beside a copy of it.
    reference_dtype: of that copy's params, "float32" or "bfloat16".
    max_logprob_gap: largest difference of a token's log-probability between
      decoding and the training forward, in nats; more stops the run.
    seed: of prompts and samples.
  """

  tokenizer: str
  initial: str
  reward_model_dir: str
  records: str
  tasks: Sequence[str]
  mesh_shape: Mapping[str, int]
  prompts_per_step: int
  samples_per_prompt: int
  prompt_lengths: Sequence[int]
  response_length: int
  sampling_temperature: float
  language_temperature: float
  reward_weights: Mapping[str, float]
  standardize_by_language: bool
  chance_gate: str
  adapters: adapters_lib.AdapterConfig | None
  reference_dtype: str
  max_logprob_gap: float
  seed: int

  def __post_init__(self):
    if self.sampling_temperature != 1.0:
      raise ValueError(
        f"sampling_temperature {self.sampling_temperature}: log-probabilities are "
        "taken at temperature 1, so samples at another are off-policy; use 1.0"
      )
    if set(self.reward_weights) != {*rewards.PARTS, "reward_model"}:
      raise ValueError(
        f"reward_weights {sorted(self.reward_weights)} must name exactly "
        f"{sorted([*rewards.PARTS, 'reward_model'])}"
      )
    if self.reference_dtype not in ("float32", "bfloat16"):
      raise ValueError(
        f"reference_dtype {self.reference_dtype!r} must be 'float32' or 'bfloat16'"
      )


class Setup(NamedTuple):
  """A policy, and the function that samples and scores its responses.

  Attributes:
    mesh: of all arrays.
    config: of the decoder.
    model: the decoder without adapters.
    part: what of the policy is trained.
    rollout: of `rollout_batches.make_rollout`, of the policy's joined params.
    languages: codes that the prompts are in.
    metadata: entries for the checkpoint.
  """

  mesh: Any
  config: decoder.DecoderConfig
  model: decoder.Model
  part: models.Part
  rollout: Callable
  languages: Sequence[str]
  metadata: dict


def open_rollouts(settings: Settings) -> Setup:
  """Opens the policy, its reference and its rewards.

  Raises:
    FileNotFoundError, ValueError: if an input is missing or does not fit, or
      the gate refuses.
  """
  mesh = mesh_lib.make_mesh(settings.mesh_shape)
  rules.check_batch(settings.prompts_per_step, mesh)
  processor = load.load(settings.tokenizer)
  sha256 = load.read_card(settings.tokenizer)["model_sha256"]
  chosen = [
    r
    for r in records_lib.read_records(
      os.path.join(settings.records, "train.jsonl")
    )
    if r["task"] in settings.tasks
  ]
  languages = sorted({r["language"] for r in chosen})
  check_above_chance(
    settings.reward_model_dir, languages, chance_gate=settings.chance_gate
  )
  identity = reward_model_identity(settings.reward_model_dir)
  draw = prompts.record_drawer(
    chosen,
    batch_size=settings.prompts_per_step,
    temperature=settings.language_temperature,
    seed=settings.seed,
  )

  def prompts_of_step(number):
    drawn = draw(number)
    arrays = generation.prompt_arrays(
      drawn, processor=processor, prompt_length=max(settings.prompt_lengths)
    )
    return {
      "prompts": rollouts.trimmed(
        arrays["prompts"], settings.prompt_lengths, pad_id=special.PAD_ID
      ),
      "prompt_ids": arrays["prompt_ids"],
      "language_ids": np.array(
        [registry.index(r["language"]) for r in drawn], np.int32
      ),
    }

  config, model, params = models.open_decoder(
    settings.initial, mesh=mesh, tokenizer_sha256=sha256
  )
  opened = models.Opened(config, None, model, params)
  part = models.trained_part(settings.initial, opened, settings.adapters)
  reference = params
  if settings.adapters is None:
    # The first update is given the policy's own buffers to overwrite.
    reference = jax.tree.map(
      lambda x: x.astype(settings.reference_dtype, copy=True), params
    )
  backend = linear_cross_entropy.default_backend()
  place = step.make_place(mesh)
  rollout = rollout_batches.make_rollout(
    prompts=prompts_of_step,
    sample=rollouts.make_sampler(
      part.model,
      response_length=settings.response_length,
      samples_per_prompt=settings.samples_per_prompt,
      temperature=settings.sampling_temperature,
      eos_id=special.EOS_ID,
      pad_id=special.PAD_ID,
    ),
    to_batch=lambda rows, language_ids: prompts.response_batch(
      rows, language_ids, prompt_length=rows.shape[1] - settings.response_length
    ),
    place=place,
    logprob_pair=rollout_batches.make_logprob_pair(
      part.model.apply, model.apply, backend=backend
    ),
    reference=reference,
    score=open_score(
      settings.reward_model_dir,
      model=model,
      config=config,
      mesh=mesh,
      tokenizer=settings.tokenizer,
      processor=processor,
      languages=languages,
      standardize_by_language=settings.standardize_by_language,
    ),
    reward_of_parts=lambda parts: rewards.weighted_sum(
      parts, settings.reward_weights
    ),
    max_logprob_gap=settings.max_logprob_gap,
    seed=settings.seed,
    eos_id=special.EOS_ID,
  )
  metadata = {
    **models.metadata_of(config, sha256),
    "reward_weights": settings.reward_weights,
    "reward_model": identity,
    "standardize_by_language": settings.standardize_by_language,
    "samples_per_prompt": settings.samples_per_prompt,
    "seed": settings.seed,
  }
  return Setup(mesh, config, model, part, rollout, languages, metadata)
