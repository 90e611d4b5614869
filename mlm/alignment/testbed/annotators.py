"""Who says which of two responses is better, and the pairs that come of it.

An annotator is (task, prompts [N, P], responses [N, R], language ids [N]) ->
float [N]: what it thinks of a response. Its choice between two is a draw from
Bradley and Terry's model. All but `gold` are negative controls.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlm.alignment.testbed.tasks import Task
from mlm.tokenizers import special

Annotator = Callable[[Task, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Pairs(NamedTuple):
  """Preference pairs, M rows each.

  Attributes:
    prompts: int32 [M, P].
    chosen: int32 [M, R].
    rejected: int32 [M, R].
    language_ids: int32 [M].
  """

  prompts: np.ndarray
  chosen: np.ndarray
  rejected: np.ndarray
  language_ids: np.ndarray


def gold(task, prompts, responses, language_ids):
  """The task's hidden score."""
  del language_ids
  return task.gold(prompts, responses)


def random(task, prompts, responses, language_ids):
  """Likes all the same, so its choices are coins: nothing can be learned."""
  del task, prompts, language_ids
  return np.zeros(len(responses))


def length(task, prompts, responses, language_ids):
  """Likes what is long and nothing else."""
  del task, prompts, language_ids
  return (responses != special.PAD_ID).sum(axis=1).astype(float)


def reversed_in_odd(task, prompts, responses, language_ids):
  """The hidden score in every other language, its negative in those between.

  With as many of the one as of the other in a mixture, its pairs say nothing
  about a language that is not in it: what is gained there is no transfer.
  """
  sign = np.where(language_ids % 2, -1.0, 1.0)
  return sign * task.gold(prompts, responses)


def annotate(
  task: Task,
  annotator: Annotator,
  *,
  prompts: np.ndarray,
  responses: np.ndarray,
  language_ids: np.ndarray,
  scale: float,
  rng: np.random.Generator,
) -> Pairs:
  """Pairs of two responses each, noisily labelled; equal ones give no pair.

  The first is chosen with probability sigmoid(scale * difference of scores).

  Args:
    task: of the prompts.
    annotator: of this module.
    prompts: int32 [N, P].
    responses: int32 [N, 2, R].
    language_ids: int32 [N].
    scale: > 0; infinity labels without noise, ties by a coin.
    rng: of the labels.
  """
  first, second = (
    annotator(task, prompts, responses[:, i], language_ids) for i in (0, 1)
  )
  difference = first - second
  with np.errstate(invalid="ignore", over="ignore"):
    scaled = np.where(difference == 0, 0.0, scale * difference)
    probability = 1 / (1 + np.exp(-scaled))
  is_first = (rng.random(len(prompts)) < probability)[:, None]
  differs = (responses[:, 0] != responses[:, 1]).any(axis=1)
  return Pairs(
    prompts=prompts[differs],
    chosen=np.where(is_first, responses[:, 0], responses[:, 1])[differs],
    rejected=np.where(is_first, responses[:, 1], responses[:, 0])[differs],
    language_ids=language_ids[differs],
  )
