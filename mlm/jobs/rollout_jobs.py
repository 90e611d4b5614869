"""What the jobs that learn from rollouts share: prompts, rewards, samples."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import (
  calibration,
  generation,
  rewards,
  rollout_batches,
  samples,
  scoring,
)
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.instructions import records as records_lib
from mlm.jobs import models, reward_sources
from mlm.languages import registry
from mlm.models import adapters as adapters_lib
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load, special
from mlm.training import step


def check_periods(checkpoint_period: int, updates_per_rollout: int) -> None:
  """Raises ValueError unless checkpoints fall between rollouts."""
  if updates_per_rollout < 1 or checkpoint_period % updates_per_rollout:
    raise ValueError(
      f"checkpoint_period {checkpoint_period} must be a multiple of "
      f"updates_per_rollout {updates_per_rollout}, at least 1, so that no "
      "rollout is cut in two by resuming"
    )


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of the rollouts.

  Attributes:
    tokenizer: tokenizer directory of the initial model.
    initial: output directory of finetune; also the frozen reference.
    reward_model_dir: output directory of train_reward_model; or of align_dpo,
      whose log ratio to what it began with then is the reward.
    dpo_reference: output directory that align_dpo began with; not read for a
      reward model.
    records: output directory of make_instructions; train prompts are used.
    tasks: tasks whose prompts are used.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    prompts_per_step: B.
    samples_per_prompt: k; at least 2 where siblings are the baseline.
    prompts_at_once: of `rollouts.make_sampler`; None for all.
    prompt_lengths: of a batch's prompts, the least that holds them is taken;
      the last is the largest.
    response_length: tokens of a response.
    sampling_temperature: training logits are not divided by it, so only 1.0 is
      on-policy and other values are refused.
    language_temperature: T of p ∝ n^(1/T) over prompts.
    reward_weights: part -> weight, of all `rewards.PARTS` and the one of
      `scoring.LEARNED` that reward_model_dir holds.
    standardize_by_language: whether the learned reward has mean 0 and deviation
      1 over the reference's samples in each language, or in all together.
    chance_gate: "refuse" or "warn" where the reward model's held-out accuracy
      in a language of the prompts is not above a half with confidence.
    adapters: those to train over the model, which then is the reference as it
      is; None to train the model, beside a copy of it.
    reference_dtype: of that copy's params, "float32" or "bfloat16".
    max_logprob_gap: largest difference of a token's log-probability between
      decoding and the training forward, in nats; more stops the run.
    samples_period: rollouts between two of which a prompt of each language is
      kept with its responses, in samples.jsonl.
    seed: of prompts and samples.
  """

  tokenizer: str
  initial: str
  reward_model_dir: str
  dpo_reference: str
  records: str
  tasks: Sequence[str]
  mesh_shape: Mapping[str, int]
  prompts_per_step: int
  samples_per_prompt: int
  prompts_at_once: int | None
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
  samples_period: int
  seed: int

  def __post_init__(self):
    if self.sampling_temperature != 1.0:
      raise ValueError(
        f"sampling_temperature {self.sampling_temperature}: log-probabilities are "
        "taken at temperature 1, so samples at another are off-policy; use 1.0"
      )
    learned = set(self.reward_weights) - set(rewards.PARTS)
    missing = set(rewards.PARTS) - set(self.reward_weights)
    if missing or len(learned) != 1 or not learned <= set(scoring.LEARNED):
      raise ValueError(
        f"reward_weights {sorted(self.reward_weights)} must name "
        f"{', '.join(rewards.PARTS)} and one of {', '.join(scoring.LEARNED)}"
      )
    if self.samples_period < 1:
      raise ValueError(
        f"samples_period {self.samples_period} must be 1 or more"
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
    learned: name of the learned part of the reward.
    metadata: entries for the checkpoint.
  """

  mesh: Any
  config: decoder.DecoderConfig
  model: decoder.Model
  part: models.Part
  rollout: Callable
  languages: Sequence[str]
  learned: str
  metadata: dict


def _learned_part(settings: Settings) -> str:
  """The learned part of the weights, if it is what the directory holds."""
  part = reward_sources.part_of(settings.reward_model_dir)
  if part not in settings.reward_weights:
    raise ValueError(
      f"{settings.reward_model_dir} gives the part {part!r} of a reward, but "
      f"reward_weights name {sorted(settings.reward_weights)}; change "
      "REWARD_MODEL or REWARD_WEIGHTS (gin/alignment/implicit_reward.gin)"
    )
  return part


def open_rollouts(
  settings: Settings, *, steps_per_rollout: int, output: str
) -> Setup:
  """Opens the policy, its reference and its rewards.

  Args:
    settings: of the rollouts.
    steps_per_rollout: see `mlm.alignment.samples.recorded`.
    output: directory of the run, for gate.json and samples.jsonl.

  Raises:
    FileNotFoundError, ValueError: if an input is missing or does not fit, or
      the gate refuses.
  """
  mesh = mesh_lib.make_mesh(settings.mesh_shape)
  rules.check_batch(settings.prompts_per_step, mesh, macro="PROMPTS_PER_STEP")
  if settings.prompts_at_once is not None:
    rules.check_batch(settings.prompts_at_once, mesh, macro="PROMPTS_AT_ONCE")
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
  learned = _learned_part(settings)
  gate = reward_sources.check_above_chance(
    reward_sources.measured(settings.reward_model_dir),
    languages,
    directory=settings.reward_model_dir,
    chance_gate=settings.chance_gate,
  )
  reward = reward_sources.open_reward(
    settings.reward_model_dir,
    dpo_reference=settings.dpo_reference,
    mesh=mesh,
    tokenizer=settings.tokenizer,
    response_length=settings.response_length,
  )
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
      prompts_at_once=settings.prompts_at_once,
    ),
    to_batch=lambda rows, language_ids: prompts.response_batch(
      rows, language_ids, prompt_length=rows.shape[1] - settings.response_length
    ),
    place=place,
    logprobs=rollout_batches.make_rollout_logprobs(
      part.model.apply, model.apply, backend=backend
    ),
    reference=reference,
    score=reward_sources.make_score(
      reward,
      settings.reward_model_dir,
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
  rollout = samples.recorded(
    rollout,
    records=draw,
    processor=processor,
    period=settings.samples_period,
    steps_per_rollout=steps_per_rollout,
    output=output,
  )
  _write_gate(output, {"part": learned, **reward.identity, **gate})
  metadata = {
    **models.metadata_of(config, sha256),
    "reward_weights": settings.reward_weights,
    "reward_model": reward.identity,
    "standardize_by_language": settings.standardize_by_language,
    "samples_per_prompt": settings.samples_per_prompt,
    "seed": settings.seed,
  }
  return Setup(mesh, config, model, part, rollout, languages, learned, metadata)


def _write_gate(output: str, gate: dict) -> None:
  path = os.path.join(output, calibration.GATE_FILE)
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8") as f:
    json.dump(gate, f, indent=1)
  os.replace(partial, path)
