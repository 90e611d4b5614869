"""Scoring sampled rows: the verifiable parts and the learned reward."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlm.alignment import reward_model, rewards
from mlm.data import prompts
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import special


def verifiable_scores(
  responses: np.ndarray,
  language_ids: np.ndarray,
  *,
  processor: Any,
  identify: rewards.Identify,
) -> dict[str, np.ndarray]:
  """`rewards.PARTS` of sampled responses, float32 [N] each.

  Args:
    responses: int32 [N, R].
    language_ids: int32 [N], `registry.index` of the language wanted.
    processor: SentencePiece processor.
    identify: text -> (code or None, probability).
  """
  rows = []
  for ids, language_id in zip(responses, language_ids):
    text, tokens, ended = prompts.decode_response(processor, ids)
    rows.append(
      rewards.verifiable_parts(
        text=text,
        tokens=tokens,
        ended=ended,
        language=registry.codes()[language_id],
        identify=identify,
      )
    )
  return {
    name: np.array([row[name] for row in rows], np.float32)
    for name in rewards.PARTS
  }


# Token rows int32 [N, P + R] on the host -> raw scores float32 [N].
RawScore = Callable[[np.ndarray], np.ndarray]


def make_reward_scores(apply: Callable) -> Callable:
  """Jitted (reward params, rows on the mesh) -> raw scores, of a decoder."""
  return mesh_lib.jit(
    lambda params, rows: reward_model.scores(
      apply, params, rows, pad_id=special.PAD_ID
    )
  )


def learned(
  *, reward_scores: Callable, reward_params: Any, place: Callable
) -> RawScore:
  """The raw score of a reward model.

  Args:
    reward_scores: of `make_reward_scores`; reward models of one shape can share
      it, which is then compiled once.
    reward_params: of `mlm.alignment.reward_model`.
    place: puts a dict of host arrays on the mesh.
  """
  return lambda rows: np.asarray(
    reward_scores(reward_params, place({"rows": rows})["rows"])
  )


def implicit(
  *,
  logprob_pair: Callable,
  policy: Any,
  reference: Any,
  beta: float,
  place: Callable,
  prompt_length: int,
) -> RawScore:
  """The reward that a DPO policy implies: beta * log(pi / pi_ref).

  Its log ratio, summed over the response, EOS included. The policy of English
  pairs is so a reward of responses in any language that its model reads.

  Args:
    logprob_pair: of `mlm.alignment.rollout_batches.make_logprob_pair`.
    policy: params after DPO.
    reference: params that DPO began with.
    beta: of DPO's objective.
    place: puts a dict of host arrays on the mesh.
    prompt_length: P.

  Source: Rafailov et al. 2023, equation 5, less a term of the prompt alone;
  used across languages by Yang et al. 2024 (arXiv 2410.08964).
  """

  def score(rows):
    batch = prompts.response_batch(
      rows, np.zeros(len(rows), np.int32), prompt_length=prompt_length
    )
    pair = logprob_pair(policy, reference, place(batch))
    chosen, base = (np.asarray(x, np.float32).sum(axis=1) for x in pair)
    return beta * (chosen - base)

  return score


def make_score(
  *,
  raw_score: RawScore,
  mean: np.ndarray,
  std: np.ndarray,
  processor: Any,
  identify: rewards.Identify,
) -> Callable[..., dict[str, np.ndarray]]:
  """Builds (rows, responses, language_ids) -> named reward parts, [N] each.

  Args:
    raw_score: of a reward model or an implicit reward.
    mean: of raw scores on samples of the reference policy, float [languages]
      by `registry.index`; see `calibration.standardization`.
    std: their standard deviation.
    processor: SentencePiece processor.
    identify: text -> (code or None, probability).
  """

  def score(rows, responses, language_ids):
    raw = raw_score(rows)
    return {
      **verifiable_scores(
        responses, language_ids, processor=processor, identify=identify
      ),
      "reward_model": (raw - mean[language_ids]) / std[language_ids],
    }

  return score
