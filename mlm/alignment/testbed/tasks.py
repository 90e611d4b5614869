"""What a testbed task is: prompts that are parallel in all its languages, and a
hidden scorer of responses.

Letters: L languages, B prompts of meanings, N rows, P prompt columns, R
response columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Task(NamedTuple):
  """Prompts, demonstrations to imitate, and two judges of responses.

  Attributes:
    languages: codes; the first plays the part of English.
    vocab_size: ids run below it; those of `mlm.tokenizers.special` are as there.
    prompt_length: P.
    response_length: R, EOS included.
    prompts: (split, rng, B) -> int32 [L, B, P], left-padded; row b says the
      same in every language, and no two splits share a meaning.
    demonstrations: (rng, N) -> (rows int32 [N, P + R], language ids int32 [N])
      of the train split; what fine-tuning imitates, faults included.
    gold: (prompts [N, P], responses [N, R]) -> float32 [N]: the hidden scorer.
    verify: the same arguments -> {name of `mlm.alignment.rewards.PARTS`:
      float32 [N] in [0, 1]}: what can be checked without knowing an answer.
  """

  languages: tuple[str, ...]
  vocab_size: int
  prompt_length: int
  response_length: int
  prompts: Callable[[str, np.random.Generator, int], np.ndarray]
  demonstrations: Callable[
    [np.random.Generator, int], tuple[np.ndarray, np.ndarray]
  ]
  gold: Callable[[np.ndarray, np.ndarray], np.ndarray]
  verify: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
