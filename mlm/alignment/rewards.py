"""Verifiable rewards: right language, no repetition, ends.

Each part is a number in [0, 1] computed from the response alone, so it can be
checked by hand. The language identifier is passed in: training and judging
should use different ones.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Identify = Callable[[str], tuple[str | None, float]]
PARTS = ("right_language", "no_repetition", "ends")


def right_language(text: str, language: str, identify: Identify) -> float:
  """Probability the identifier gives `language` if that is its first choice.

  Args:
    text: response.
    language: canonical code wanted.
    identify: text -> (canonical code or None, probability).
  """
  identified, probability = identify(text)
  return float(probability) if identified == language else 0.0


def no_repetition(tokens: Sequence[int], *, order: int = 3) -> float:
  """Share of token n-grams that are not repeats of an earlier one.

  Tokens, not words: the measure must not favour scripts with spaces.

  Args:
    tokens: response tokens without EOS and padding.
    order: n.

  Returns:
    distinct n-grams / n-grams; 1.0 for a response shorter than n tokens.
  """
  count = len(tokens) - order + 1
  if count < 1:
    return 1.0
  grams = {tuple(tokens[i : i + order]) for i in range(count)}
  return len(grams) / count


def verifiable_parts(
  *,
  text: str,
  tokens: Sequence[int],
  ended: bool,
  language: str,
  identify: Identify,
) -> dict[str, float]:
  """The three parts of one response, keyed by `PARTS`.

  An empty response gets 0 in every part: silence is not an answer.
  """
  if not text.strip():
    return dict.fromkeys(PARTS, 0.0)
  return {
    "right_language": right_language(text, language, identify),
    "no_repetition": no_repetition(tokens),
    "ends": float(ended),
  }


def weighted_sum(
  parts: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> np.ndarray:
  """Reward [N] as the weighted sum of named parts, each float [N].

  Raises:
    ValueError: if a weight names no part, or a part has no weight.
  """
  if set(parts) != set(weights):
    raise ValueError(
      f"reward parts {sorted(parts)} and weights {sorted(weights)} must have "
      "the same names; give each part a weight (0 to ignore it)"
    )
  total = np.zeros(len(next(iter(parts.values()))), np.float32)
  for name, values in parts.items():
    total += weights[name] * np.asarray(values, np.float32)
  return total
