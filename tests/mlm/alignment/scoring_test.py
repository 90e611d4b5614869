"""The implicit reward against log-probabilities that numpy computes."""

import numpy as np
import pytest

from mlm.alignment import reward_model, rollout_batches, scoring
from mlm.data import prompts
from mlm.tokenizers import special

PROMPT_LENGTH, RESPONSE_LENGTH = 3, 4


def _rows():
  """Rows of a vocabulary of seven: prompts of 3, responses of up to 4."""
  return np.array(
    [
      [0, 3, 4, 5, 6, special.EOS_ID, 0],
      [3, 5, 4, 6, special.EOS_ID, 0, 0],
      [0, 3, 4, 2, 5, 6, 5],
    ],
    np.int32,
  )


def _implicit(toy, beta, *, per_token=False, response_length=RESPONSE_LENGTH):
  return scoring.implicit(
    logprob_pair=rollout_batches.make_logprob_pair(
      toy.apply, toy.apply, backend="chunked"
    ),
    policy=toy.params(1),
    reference=toy.params(2),
    beta=beta,
    per_token=per_token,
    place=lambda batch: batch,
    response_length=response_length,
  )


def test_the_implicit_reward_is_beta_times_the_summed_log_ratio(toy):
  rows = _rows()
  batch = prompts.response_batch(
    rows, np.zeros(3, np.int32), prompt_length=PROMPT_LENGTH
  )
  policy, reference = (
    toy.token_logprobs(toy.params(seed), batch).sum(axis=1) for seed in (1, 2)
  )
  expected = 0.3 * (policy - reference)
  np.testing.assert_allclose(
    _implicit(toy, 0.3)(rows), expected, rtol=1e-5, atol=1e-5
  )
  # The response's tokens alone count, its EOS among them.
  np.testing.assert_allclose(
    _implicit(toy, 0.3, per_token=True)(rows),
    expected / [3, 2, 4],
    rtol=1e-5,
    atol=1e-5,
  )


def test_padding_and_other_rows_change_no_reward(toy):
  score, rows = _implicit(toy, 1.0), _rows()
  longer = np.pad(rows, ((0, 0), (0, 2)))
  np.testing.assert_allclose(
    _implicit(toy, 1.0, response_length=RESPONSE_LENGTH + 2)(longer),
    score(rows),
    atol=1e-5,
  )
  np.testing.assert_allclose(score(rows[::-1]), score(rows)[::-1], atol=1e-5)


def test_a_reward_model_has_the_same_interface(toy):
  params = {"decoder": toy.params(1), "score": np.arange(4, dtype=np.float32)}
  score = scoring.learned(
    reward_scores=scoring.make_reward_scores(toy.apply),
    reward_params=params,
    place=lambda batch: batch,
  )
  rows = _rows()
  found = score(rows)
  assert found.shape == _implicit(toy, 1.0)(rows).shape == (3,)
  # This decoder's hidden state is the last token's embedding.
  last = [row[row != special.PAD_ID][-1] for row in rows]
  expected = np.asarray(params["decoder"]["embedding"])[last] @ params["score"]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert reward_model.scores(
    toy.apply, params, rows, pad_id=special.PAD_ID
  ) == pytest.approx(found)


def test_parts_hold_the_standardized_raw_score():
  score = scoring.make_score(
    part="implicit",
    raw_score=lambda rows: np.array([1.0, 5.0], np.float32),
    mean=np.array([0.0, 3.0]),
    std=np.array([1.0, 2.0]),
    processor=_Processor(),
    identify=lambda text: (None, 0.0),
  )
  parts = score(
    np.zeros((2, 2), np.int32),
    np.full((2, 1), special.EOS_ID, np.int32),
    np.array([0, 1]),
  )
  np.testing.assert_array_equal(parts["implicit"], [1.0, 1.0])


class _Processor:
  def decode(self, tokens):
    return ""
