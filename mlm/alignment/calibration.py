"""What a reward model is worth, by language: measured before it is trusted.

An average hides the language in which a reward model is at chance, and a policy
optimised against it gets worse exactly there. Accuracy has an interval, and
stands beside two shortcuts that read no meaning: the response's length, and the
tokens in it whatever their order.

Letters: M pairs, R response tokens, V vocabulary.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlm.languages import registry
from mlm.tokenizers import special

GATE_FILE = "gate.json"  # what was known of a reward when a policy began


def wilson_interval(
  right: int, total: int, *, confidence: float
) -> tuple[float, float]:
  """Interval of a proportion of independent trials.

  Args:
    right: trials that came out right.
    total: trials, >= 1.
    confidence: such as 0.95.

  Source: Wilson 1927, without continuity correction.
  """
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  share = right / total
  center = share + z**2 / (2 * total)
  spread = z * math.sqrt(share * (1 - share) / total + (z / total) ** 2 / 4)
  low, high = (
    (center + sign * spread) / (1 + z**2 / total) for sign in (-1, 1)
  )
  return max(0.0, low), min(1.0, high)


def fit_shortcuts(
  chosen: np.ndarray, rejected: np.ndarray, *, vocab_size: int
) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
  """Fits the two shortcuts on pairs.

  Length prefers the longer or the shorter response, whichever the pairs do.
  Tokens adds up log-odds of each token, counts plus one, chosen over rejected
  (naive Bayes): closed form, and linear in the data.

  Args:
    chosen: int32 [M, R] responses of the training pairs, padded.
    rejected: the same.
    vocab_size: V.

  Returns:
    (chosen, rejected) -> {"length", "tokens": float [M]}: by how much each
    prefers the chosen response.
  """

  def longer(chosen, rejected):
    num_tokens = [(x != special.PAD_ID).sum(axis=1) for x in (chosen, rejected)]
    return (num_tokens[0] - num_tokens[1]).astype(float)

  direction = np.sign(np.sign(longer(chosen, rejected)).sum()) or 1.0
  counts = [
    1.0 + np.bincount(x[x != special.PAD_ID], minlength=vocab_size)
    for x in (chosen, rejected)
  ]
  log_odds = np.log(counts[0] / counts[0].sum())
  log_odds -= np.log(counts[1] / counts[1].sum())
  log_odds[special.PAD_ID] = 0.0

  def differences(chosen, rejected):
    return {
      "length": direction * longer(chosen, rejected),
      "tokens": (log_odds[chosen].sum(axis=1) - log_odds[rejected].sum(axis=1)),
    }

  return differences


def _row(difference, samples, shortcuts, confidence) -> dict:
  right = int((difference > 0).sum())
  low, high = wilson_interval(right, len(difference), confidence=confidence)
  row = {
    "pairs": len(difference),
    "accuracy": right / len(difference),
    "low": low,
    "high": high,
    "log_loss": float(np.logaddexp(0, -difference).mean()),
    "mean": float(samples.mean()),
    "std": float(samples.std()),
  }
  for name, of_shortcut in shortcuts.items():
    row[f"{name}_accuracy"] = float((1 + np.sign(of_shortcut)).mean() / 2)
    agrees = np.sign(of_shortcut) * np.sign(difference)
    row[f"{name}_agreement"] = float((1 + agrees).mean() / 2)
  return row


def summarize(
  *,
  languages: Sequence[str],
  chosen: np.ndarray,
  rejected: np.ndarray,
  shortcuts: Mapping[str, np.ndarray],
  confidence: float,
) -> dict:
  """Calibration of a reward model on held-out pairs.

  Args:
    languages: code of each of the M pairs.
    chosen: float [M] raw scores.
    rejected: float [M] raw scores of the policy's own samples.
    shortcuts: {name: float [M]} of `fit_shortcuts`.
    confidence: of the intervals of accuracy.

  Returns:
    {"confidence", "together": row, "by_language": {code: row}}; a row has
    pairs, accuracy with its interval low and high, log_loss in nats (log 2 is
    chance), mean and std of the samples' scores, and of each shortcut its
    accuracy and its agreement with the model, ties counting half.
  """
  languages = np.asarray(languages)

  def row(of):
    return _row(
      (chosen - rejected)[of],
      rejected[of],
      {name: values[of] for name, values in shortcuts.items()},
      confidence,
    )

  return {
    "confidence": confidence,
    "together": row(np.ones(len(languages), bool)),
    "by_language": {
      code: row(languages == code) for code in sorted(set(languages.tolist()))
    },
  }


def at_chance(calibration: Mapping, languages: Sequence[str]) -> dict[str, str]:
  """Languages in which the model is not known to beat a coin, and why.

  Args:
    calibration: of `summarize`.
    languages: codes that a policy will be trained in.

  Returns:
    {code: "accuracy …"} of those whose interval does not lie above a half, or
    that have no held-out pairs.
  """
  told = {}
  for code in languages:
    row = calibration["by_language"].get(code)
    if row is None:
      told[code] = "no held-out pairs"
    elif row["low"] <= 0.5:
      told[code] = (
        f"accuracy {row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}] "
        f"on {row['pairs']} pairs"
      )
  return told


def standardization(
  calibration: Mapping, languages: Sequence[str], *, by_language: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation to take out of raw scores, [NUM_LANGUAGES].

  Args:
    calibration: of `summarize`.
    languages: codes that will be scored.
    by_language: whether each language has its own; else all have that of all
      pairs together.

  Returns:
    float32 arrays by `registry.index`; NaN for languages not named.

  Raises:
    ValueError: if a standard deviation is not positive: the model says nothing.
  """
  mean, std = np.full((2, registry.NUM_LANGUAGES), np.nan, np.float32)
  for code in languages:
    rows = calibration["by_language"]
    row = rows.get(code) if by_language else calibration["together"]
    if row is None or not row["std"] > 0:
      raise ValueError(
        f"the reward model's scores in {code} have "
        f"{'no held-out pairs' if row is None else 'no spread'} to standardize "
        "by; train it longer or on more pairs, or standardize all languages "
        "together"
      )
    mean[registry.index(code)], std[registry.index(code)] = (
      row["mean"],
      row["std"],
    )
  return mean, std
