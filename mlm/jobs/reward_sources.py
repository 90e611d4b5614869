"""Opening what can score responses: reward models, and policies after DPO."""

import functools

from jax.sharding import Mesh

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import reference_cache, rollout_batches, scoring
from mlm.checkpoints import manager
from mlm.jobs import models, rollout_jobs
from mlm.models import decoder, families
from mlm.tokenizers import load
from mlm.training import step

# Rewards of one shape share a program, which is compiled once.


@functools.lru_cache(maxsize=2)
def _reward_scores(shape: str):
  return scoring.make_reward_scores(models.of_shape(shape).apply)


@functools.lru_cache(maxsize=2)
def _logprob_pair(shape: str):
  apply = models.of_shape(shape).apply
  backend = linear_cross_entropy.default_backend()
  return rollout_batches.make_logprob_pair(apply, apply, backend=backend)


def open_raw_score(
  directory: str,
  *,
  dpo_reference: str,
  mesh: Mesh,
  tokenizer: str,
  prompt_length: int,
) -> scoring.RawScore:
  """The raw score of a reward model, or the implicit one of a DPO policy.

  Args:
    directory: output directory of train_reward_model or align_dpo.
    dpo_reference: output directory that align_dpo began with; not read for a
      reward model.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory; must be the checkpoint's.
    prompt_length: P of the rows that will be scored.

  Raises:
    ValueError: if a DPO policy's reference is not given, or is another model.
  """
  place = step.make_place(mesh)
  found = manager.read_metadata(models.checkpoints_of(directory))
  if "objective" not in found:
    config = families.config_of(found["model"])
    params = rollout_jobs.open_reward_model(
      directory,
      model=decoder.build(config),
      config=config,
      mesh=mesh,
      tokenizer=tokenizer,
    )
    return scoring.learned(
      reward_scores=_reward_scores(models.shape_of(config)),
      reward_params=params,
      place=place,
    )
  if not dpo_reference:
    raise ValueError(
      f"{directory} is a policy of align_dpo, whose reward is its log ratio to "
      "the model that it began with; give that as DPO_REFERENCE"
    )
  (config, _, policy), (_, _, reference) = (
    models.open_decoder(
      output,
      mesh=mesh,
      tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
    )
    for output in (directory, dpo_reference)
  )
  if reference_cache.fingerprint(reference) != found["reference"]:
    raise ValueError(
      f"{dpo_reference} is not the model that {directory} began with (another "
      "fingerprint); correct DPO_REFERENCE"
    )
  return scoring.implicit(
    logprob_pair=_logprob_pair(models.shape_of(config)),
    policy=policy,
    reference=reference,
    beta=found["objective"]["beta"],
    place=place,
    prompt_length=prompt_length,
  )
