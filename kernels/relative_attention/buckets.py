"""T5's buckets of relative positions."""

import numpy as np


def bucket(
  delta: np.ndarray, *, num_buckets: int, max_distance: int, is_causal: bool
) -> np.ndarray:
  """The bucket of each distance: exact when near, by its logarithm when far.

  Args:
    delta: int, slot of the key less slot of the query.
    num_buckets: in all; without is_causal, half of them are for delta > 0.
    max_distance: from here on all distances share the last bucket.
    is_causal: whether all buckets are for delta <= 0; delta > 0 counts as 0.

  Returns:
    int32 in [0, num_buckets), shaped as delta.

  Raises:
    ValueError: if there are too few buckets for the distance.

  Source: Raffel et al. 2020 (T5), section 2.1; float32 logarithm as in t5x.
  """
  half = num_buckets if is_causal else num_buckets // 2
  num_exact = half // 2
  if num_exact < 1 or max_distance <= num_exact:
    raise ValueError(
      f"{num_buckets} buckets do not suit a distance of {max_distance}; need at "
      f"least {2 if is_causal else 4}, and a distance above {num_exact}"
    )
  distance = np.maximum(-delta, 0) if is_causal else np.abs(delta)
  # The epsilon lifts exact powers to their bucket.
  ratio = distance.astype(np.float32) / num_exact + np.finfo(np.float32).eps
  log_bucket = num_exact + (
    np.log(ratio) / np.log(max_distance / num_exact) * (half - num_exact)
  ).astype(np.int32)
  found = np.where(
    distance < num_exact, distance, np.minimum(log_bucket, half - 1)
  )
  if not is_causal:
    found = found + half * (delta > 0)
  return found.astype(np.int32)
