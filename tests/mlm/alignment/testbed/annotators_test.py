"""Noisy choices between two responses."""

import math

import numpy as np
import pytest

from mlm.alignment.testbed import annotators, tasks

N = 4000


def _task():
  """Scores a response by its first token."""
  return tasks.Task(
    languages=("a", "b"),
    vocab_size=20,
    prompt_length=1,
    response_length=3,
    prompts=None,
    demonstrations=None,
    gold=lambda prompts, responses: responses[:, 0].astype(float),
    verify=None,
  )


def _pairs(annotator, responses, scale, language_ids=None):
  number = len(responses)
  if language_ids is None:
    language_ids = np.zeros(number, np.int32)
  return annotators.annotate(
    _task(),
    annotator,
    prompts=np.arange(number)[:, None],
    responses=responses,
    language_ids=language_ids,
    scale=scale,
    rng=np.random.default_rng(0),
  )


def _two(first, second, number=N):
  return np.tile(np.array([first, second]), (number, 1, 1))


def test_choices_are_bradley_and_terrys():
  pairs = _pairs(annotators.gold, _two([7, 0, 0], [6, 5, 5]), 1.5)
  share = (pairs.chosen[:, 0] == 7).mean()
  expected = 1 / (1 + math.exp(-1.5))
  error = math.sqrt(expected * (1 - expected) / N)
  assert abs(share - expected) < 4 * error


def test_without_noise_the_better_is_always_chosen():
  pairs = _pairs(annotators.gold, _two([6, 5, 5], [7, 0, 0]), math.inf)
  assert (pairs.chosen[:, 0] == 7).all() and (pairs.rejected[:, 0] == 6).all()


@pytest.mark.parametrize("scale", [3.0, math.inf])
def test_ties_and_the_random_annotator_are_coins(scale):
  for annotator, responses in (
    (annotators.gold, _two([7, 0, 0], [7, 5, 5])),
    (annotators.random, _two([1, 0, 0], [9, 0, 0])),
  ):
    pairs = _pairs(annotator, responses, scale)
    first = (pairs.chosen == responses[:, 0]).all(axis=1).mean()
    assert abs(first - 0.5) < 4 * math.sqrt(0.25 / N)


def test_equal_responses_make_no_pair():
  responses = _two([7, 1, 0], [6, 1, 0], number=4)
  responses[2, 1] = responses[2, 0]
  pairs = _pairs(annotators.gold, responses, math.inf)
  assert pairs.prompts[:, 0].tolist() == [0, 1, 3]
  assert len(pairs.language_ids) == 3


def test_length_counts_real_tokens_only():
  pairs = _pairs(annotators.length, _two([9, 0, 0], [1, 1, 0]), math.inf)
  assert (pairs.chosen[:, 0] == 1).all()


def test_reversed_in_odd_languages():
  ids = np.array([0, 1, 0, 1], np.int32)
  responses = _two([7, 0, 0], [6, 0, 0], number=4)
  pairs = _pairs(annotators.reversed_in_odd, responses, math.inf, ids)
  assert pairs.chosen[:, 0].tolist() == [7, 6, 7, 6]
