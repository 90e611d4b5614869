"""Scoring sampled rows: the verifiable parts and a learned reward."""

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


# What a learned part may be: the score of a reward model, or the log ratio of a
# DPO policy.
LEARNED = ("reward_model", "implicit")

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
  per_token: bool,
  place: Callable,
  response_length: int,
) -> RawScore:
  """The reward that a DPO policy implies: beta * log(pi / pi_ref).

  Its log ratio, summed over the response, EOS included. The policy of English
  pairs is so a reward of responses in any language that its model reads.

  Args:
    logprob_pair: of `mlm.alignment.rollout_batches.make_logprob_pair`.
    policy: params after DPO.
    reference: params that DPO began with.
    beta: of DPO's objective.
    per_token: whether its log ratios are means over tokens.
    place: puts a dict of host arrays on the mesh.
    response_length: R.

  Source: Rafailov et al. 2023, equation 5, less a term of the prompt alone;
  used across languages by Yang et al. 2024 (arXiv 2410.08964).
  """

  def score(rows):
    batch = prompts.response_batch(
      rows,
      np.zeros(len(rows), np.int32),
      prompt_length=rows.shape[1] - response_length,
    )
    pair = logprob_pair(policy, reference, place(batch))
    trained, base = (np.asarray(x, np.float32).sum(axis=1) for x in pair)
    log_ratio = trained - base
    if per_token:
      num_tokens = batch["decoder_loss_weights"].sum(axis=1)
      log_ratio /= np.maximum(num_tokens, 1)
    return beta * log_ratio

  return score


def make_score(
  *,
  part: str,
  raw_score: RawScore,
  mean: np.ndarray,
  std: np.ndarray,
  processor: Any,
  identify: rewards.Identify,
) -> Callable[..., dict[str, np.ndarray]]:
  """Builds (rows, responses, language_ids) -> named reward parts, [N] each.

  Args:
    part: name of the learned one, of `LEARNED`.
    raw_score: of it.
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
      part: (raw - mean[language_ids]) / std[language_ids],
    }

  return score
