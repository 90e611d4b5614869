"""Opening what can score responses, reward models and policies after DPO, and
what is known of them."""

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from beam_pipelines import langid
from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import (
  calibration,
  reference_cache,
  reward_model,
  rollout_batches,
  scoring,
)
from mlm.checkpoints import manager
from mlm.jobs import models, train_reward_model
from mlm.languages import registry
from mlm.models import decoder, families
from mlm.sharding import rules
from mlm.tokenizers import load
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


def part_of(directory: str) -> str:
  """Name of the part of a reward that a job's output is: of `scoring.LEARNED`.

  Raises:
    ValueError: if it is neither a policy of align_dpo nor a decoder.
  """
  found = manager.read_metadata(models.checkpoints_of(directory))
  if "objective" in found:
    return "implicit"
  config = families.config_of(found["model"])
  models.check_decoder(directory, config, "a reward model")
  return "reward_model"


def measured(directory: str) -> dict:
  """What held-out pairs say of a reward, as `calibration.summarize` has it.

  Nobody has asked them about the implicit reward of a policy.

  Args:
    directory: output directory of train_reward_model or align_dpo.
  """
  if part_of(directory) == "implicit":
    return {"confidence": None, "by_language": {}}
  return read_calibration(directory)


def check_above_chance(
  measured: Mapping,
  languages: Sequence[str],
  *,
  directory: str,
  chance_gate: str,
) -> dict:
  """Stops or warns before a policy learns from a reward at chance.

  Args:
    measured: of `measured`.
    languages: codes that the policy will be trained in.
    directory: of the reward, to name it.
    chance_gate: "refuse" or "warn".

  Returns:
    {"chance_gate", "confidence", "by_language": {code: row of
    `calibration.summarize`}, "at_chance": {code: why}}.

  Raises:
    ValueError: with "refuse", if its held-out accuracy is not above a half with
      confidence in one of the languages; the message has the numbers.
  """
  if chance_gate not in ("refuse", "warn"):
    raise ValueError(f"chance_gate {chance_gate!r} must be 'refuse' or 'warn'")
  told = calibration.at_chance(measured, languages)
  if told:
    lines = "\n".join(f"  {code}: {why}" for code, why in told.items())
    message = (
      f"the reward in {directory} is not known to be above chance in "
      f"{len(told)} of {len(languages)} languages:\n{lines}\noptimizing it "
      "there is known to make answers worse; train it on more pairs of these "
      "languages, leave them out, or set CHANCE_GATE to 'warn'"
    )
    if chance_gate == "refuse":
      raise ValueError(message)
    logging.warning(message)
  rows = measured["by_language"]
  return {
    "chance_gate": chance_gate,
    "confidence": measured["confidence"],
    "by_language": {code: rows[code] for code in languages if code in rows},
    "at_chance": told,
  }


def open_reward_model(
  directory: str, *, mesh: Mesh, tokenizer: str
) -> tuple[decoder.DecoderConfig, decoder.Model, Any]:
  """Configuration, decoder and params of a trained reward model.

  Args:
    directory: output directory of train_reward_model.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory; must be the checkpoint's.
  """
  config = models.config_of(directory)
  models.check_decoder(directory, config, "a reward model")
  model = decoder.build(config)
  abstract = jax.eval_shape(
    lambda key: reward_model.init(model.init(key), config.d_model),
    jax.random.key(0),
  )
  axes = reward_model.logical_axes(model.logical_axes())
  shardings = rules.named_shardings(mesh, axes, abstract)
  params = manager.restore_params(
    models.checkpoints_of(directory),
    train_state.with_shardings(abstract, shardings),
    metadata={"tokenizer_sha256": load.read_card(tokenizer)["model_sha256"]},
  )
  return config, model, params


# Rewards of one shape share a program, which is compiled once.


@functools.lru_cache(maxsize=2)
def _reward_scores(shape: str):
  return scoring.make_reward_scores(models.of_shape(shape).apply)


@functools.lru_cache(maxsize=2)
def _logprob_pair(shape: str):
  apply = models.of_shape(shape).apply
  backend = linear_cross_entropy.default_backend()
  return rollout_batches.make_logprob_pair(apply, apply, backend=backend)


class Reward(NamedTuple):
  """A learned reward.

  Attributes:
    part: its name among the parts of a reward, of `scoring.LEARNED`.
    raw_score: of `scoring`.
    identity: {"fingerprint", "seed"}, by which a judge knows what it has
      trained; an implicit reward has no seed.
  """

  part: str
  raw_score: scoring.RawScore
  identity: dict


def open_reward(
  directory: str,
  *,
  dpo_reference: str,
  mesh: Mesh,
  tokenizer: str,
  response_length: int,
) -> Reward:
  """A reward model, or the implicit reward of a DPO policy.

  Args:
    directory: output directory of train_reward_model or align_dpo.
    dpo_reference: output directory that align_dpo began with; not read for a
      reward model.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory; must be the checkpoint's.
    response_length: R of the rows that will be scored.

  Raises:
    ValueError: if a DPO policy's reference is not given, or is another model.
  """
  place = step.make_place(mesh)
  if part_of(directory) == "reward_model":
    config, _, params = open_reward_model(
      directory, mesh=mesh, tokenizer=tokenizer
    )
    raw_score = scoring.learned(
      reward_scores=_reward_scores(models.shape_of(config)),
      reward_params=params,
      place=place,
    )
    return Reward(
      "reward_model",
      scoring.within_vocabulary(raw_score, config.vocab_size),
      reward_model_identity(directory),
    )
  if not dpo_reference:
    raise ValueError(
      f"{directory} is a policy of align_dpo, whose reward is its log ratio to "
      "the model that it began with; give that as DPO_REFERENCE"
    )
  (config, _, policy), (_, _, reference) = (
    models.open_policy(
      output,
      mesh=mesh,
      tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
    )
    for output in (directory, dpo_reference)
  )
  found = manager.read_metadata(models.checkpoints_of(directory))
  if reference_cache.fingerprint(reference) != found["reference"]:
    raise ValueError(
      f"{dpo_reference} is not the model that {directory} began with (another "
      "fingerprint); correct DPO_REFERENCE"
    )
  raw_score = scoring.implicit(
    to_batch=models.batch_function(config),
    logprob_pair=_logprob_pair(models.shape_of(config)),
    policy=policy,
    reference=reference,
    beta=found["objective"]["beta"],
    per_token=found["objective"]["per_token"],
    place=place,
    response_length=response_length,
  )
  identity = {"fingerprint": reference_cache.fingerprint(policy), "seed": None}
  return Reward(
    "implicit",
    scoring.within_vocabulary(raw_score, config.vocab_size),
    identity,
  )


def make_score(
  reward: Reward,
  directory: str,
  *,
  processor: Any,
  languages: Sequence[str],
  standardize_by_language: bool,
) -> Callable[..., dict[str, np.ndarray]]:
  """The scoring function of a learned reward; see `scoring.make_score`.

  A reward model's score is standardized by its calibration; an implicit one is
  left in nats times beta.

  Args:
    reward: of `open_reward`.
    directory: that it was opened from.
    processor: SentencePiece processor.
    languages: codes of what will be scored.
    standardize_by_language: see `calibration.standardization`.
  """
  mean, std = np.zeros(registry.NUM_LANGUAGES), np.ones(registry.NUM_LANGUAGES)
  if reward.part == "reward_model":
    mean, std = calibration.standardization(
      read_calibration(directory),
      languages,
      by_language=standardize_by_language,
    )
  elif standardize_by_language:
    raise ValueError(
      f"the implicit reward of {directory} has no calibration to standardize "
      "it by; set standardize_by_language to False"
    )
  return scoring.make_score(
    part=reward.part,
    raw_score=reward.raw_score,
    mean=mean,
    std=std,
    processor=processor,
    identify=langid.identify,
  )
