"""Best-of-n: what n samples and a reward give, for every n from the same N.

Drawing n samples of the reference policy and keeping the one with the highest
reward moves away from the policy by no more than log n - (n - 1) / n nats. With
N samples a prompt, the mean over all subsets of n is an unbiased estimate for
each n, from order statistics: the i-th smallest of N is the largest of a subset
of n with probability C(i - 1, n - 1) / C(N, n).

Letters: B prompts, N samples a prompt.
"""

import math
from collections.abc import Mapping

import numpy as np


def kl_bound(n: int) -> float:
  """log n - (n - 1) / n in nats: an upper bound of the KL, not its value.

  Source: Beirami et al. 2024; it was long quoted as an equality, which holds
  only as the probability of every single response goes to 0.
  """
  return math.log(n) - (n - 1) / n


def weights(num_samples: int) -> np.ndarray:
  """Probability that an order statistic is the best of a subset.

  Args:
    num_samples: N.

  Returns:
    float64 [N, N]; row n - 1 holds C(i - 1, n - 1) / C(N, n) for i = 1 … N, and
    sums to 1.
  """
  return np.array(
    [
      [
        math.comb(i, n - 1) / math.comb(num_samples, n)
        for i in range(num_samples)
      ]
      for n in range(1, num_samples + 1)
    ]
  )


def _mean_of_ties(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
  """Gold in ascending order of proxy, tied samples at their mean: [N]."""
  _, group, sizes = np.unique(proxy, return_inverse=True, return_counts=True)
  means = np.bincount(group, weights=gold) / sizes
  return np.repeat(means, sizes)


def expected(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
  """Expected gold reward of the sample with the highest proxy reward of n.

  With gold = proxy this is the expected maximum. Tied samples are chosen among
  at random.

  Args:
    proxy: float [B, N], by which the best is chosen.
    gold: float [B, N], by which it is judged.

  Returns:
    float64 [B, N]; column n - 1 is for n samples.
  """
  ordered = np.array([_mean_of_ties(p, g) for p, g in zip(proxy, gold)])
  return ordered @ weights(proxy.shape[1]).T


def curve(by_language: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict:
  """Rewards against n, by language and then their macro average.

  Args:
    by_language: language -> (proxy, gold), float [B, N] each; the number of
      prompts may differ between languages, the number of samples may not.

  Returns:
    {"macro": rows, "by_language": {language: rows}}; a row for each n has n,
    kl_bound in nats, proxy, gold and their standard errors over prompts (None
    where a language has a single prompt), and the number of prompts.

  Raises:
    ValueError: if shapes do not fit, or there is no language.
  """
  sizes = {code: pair[0].shape[1] for code, pair in by_language.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(
      f"samples a prompt by language are {sizes}; all must be the same number, "
      "and one language at least is needed"
    )
  rows = {}
  for code, (proxy, gold) in by_language.items():
    if proxy.shape != gold.shape or not len(proxy):
      raise ValueError(
        f"{code}: proxy rewards {proxy.shape} and gold rewards {gold.shape} "
        "must have the same shape, with a prompt or more"
      )
    proxies, golds = expected(proxy, proxy), expected(proxy, gold)
    rows[code] = [
      {
        "n": n,
        "kl_bound": kl_bound(n),
        "proxy": float(proxies[:, n - 1].mean()),
        "proxy_error": _standard_error(proxies[:, n - 1]),
        "gold": float(golds[:, n - 1].mean()),
        "gold_error": _standard_error(golds[:, n - 1]),
        "prompts": len(proxy),
      }
      for n in range(1, proxy.shape[1] + 1)
    ]
  return {"macro": [_macro(of_n) for of_n in zip(*rows.values())]} | {
    "by_language": rows
  }


def _standard_error(values: np.ndarray) -> float | None:
  if len(values) < 2:
    return None
  return float(values.std(ddof=1) / math.sqrt(len(values)))


def _macro(rows) -> dict:
  """One row of several languages', each counting the same."""
  row = {"n": rows[0]["n"], "kl_bound": rows[0]["kl_bound"]}
  for name in ("proxy", "gold"):
    errors = [of[f"{name}_error"] for of in rows]
    row[name] = float(np.mean([of[name] for of in rows]))
    row[f"{name}_error"] = (
      None if None in errors else math.hypot(*errors) / len(rows)
    )
  return {**row, "prompts": sum(of["prompts"] for of in rows)}
