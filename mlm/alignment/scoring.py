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


def make_score(
  *,
  apply: Callable,
  reward_params: Any,
  mean: np.ndarray,
  std: np.ndarray,
  place: Callable,
  processor: Any,
  identify: rewards.Identify,
) -> Callable[..., dict[str, np.ndarray]]:
  """Builds (rows, responses, language_ids) -> named reward parts, [N] each.

  Args:
    apply: of the reward model's decoder.
    reward_params: of `mlm.alignment.reward_model`.
    mean: of raw scores on samples of the reference policy, float [languages]
      by `registry.index`; see `calibration.standardization`.
    std: their standard deviation.
    place: puts a dict of host arrays on the mesh.
    processor: SentencePiece processor.
    identify: text -> (code or None, probability).
  """
  raw_scores = mesh_lib.jit(
    lambda params, rows: reward_model.scores(
      apply, params, rows, pad_id=special.PAD_ID
    )
  )

  def score(rows, responses, language_ids):
    raw = np.asarray(raw_scores(reward_params, place({"rows": rows})["rows"]))
    return {
      **verifiable_scores(
        responses, language_ids, processor=processor, identify=identify
      ),
      "reward_model": (raw - mean[language_ids]) / std[language_ids],
    }

  return score
