"""From verdicts on comparisons to the results of one policy against another."""

import collections
from collections.abc import Collection, Sequence

import numpy as np

from mlm.evaluation import judge as judge_lib
from mlm.evaluation import length_control, win_rate

_WINS = {judge_lib.A: 1.0, judge_lib.B: 0.0, judge_lib.TIE: 0.5}


def _by_prompt(
  outcomes: Sequence[str], prompts: Sequence[str]
) -> tuple[np.ndarray, list[int]]:
  """Shares of wins, losses and ties a prompt, and a row of each prompt."""
  order = (judge_lib.A, judge_lib.B, judge_lib.TIE)
  counts: dict[str, list[int]] = {}
  first: dict[str, int] = {}
  for i, (outcome, prompt) in enumerate(zip(outcomes, prompts)):
    counts.setdefault(prompt, [0, 0, 0])[order.index(outcome)] += 1
    first.setdefault(prompt, i)
  shares = np.array(list(counts.values()), float)
  return shares / shares.sum(axis=1, keepdims=True), list(first.values())


def summarize(
  comparisons: Sequence[judge_lib.Comparison],
  verdicts: Sequence[tuple[str, str]],
  *,
  prompts: Sequence[str],
  clusters: Sequence[str],
  seen: Collection[str] | None,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> dict:
  """Results of the policy whose answers are a, against that of b.

  Comparisons without a verdict in one of the orders are counted and left out of
  the rates.

  Args:
    comparisons: N, of one prompt several if it has several samples.
    verdicts: of `judge.in_both_orders`.
    prompts: name of each comparison's prompt, another in each language.
    clusters: name of its source prompt, the same in every language.
    seen: languages of the policy's preferences; None if that is not asked.
    seed: of the bootstrap.
    num_resamples: of the bootstrap.
    confidence: of the intervals, such as 0.95.

  Returns:
    {"confidence", "win_rate": of `win_rate.summarize`, "length_controlled": of
    `length_control.summarize`, "judging": {code: {"comparisons", "no_verdict",
    "inconsistent", "first", "second", "length_a", "length_b"}},
    "unjudged_languages": codes}. Of the verdicts of both orders, first and
    second are those that prefer that place. Lengths are mean characters.

  Raises:
    ValueError: if not one comparison has a verdict.
  """
  outcomes = [judge_lib.outcome(*pair) for pair in verdicts]
  judged = [i for i, o in enumerate(outcomes) if o != judge_lib.NO_VERDICT]
  if not judged:
    raise ValueError(
      f"the judge gave no verdict in both orders on any of {len(comparisons)} "
      "comparisons: look at its answers, or choose one that knows the languages"
    )
  languages = [c.language for c in comparisons]
  lengths = np.array([[len(c.a.text), len(c.b.text)] for c in comparisons])
  shares, rows = _by_prompt(
    [outcomes[i] for i in judged], [prompts[i] for i in judged]
  )
  settings = {
    "seen": seen,
    "seed": seed,
    "num_resamples": num_resamples,
    "confidence": confidence,
  }
  of_judged = [languages[i] for i in judged]
  return {
    "confidence": confidence,
    "win_rate": win_rate.summarize(
      shares,
      languages=[of_judged[i] for i in rows],
      clusters=[clusters[judged[i]] for i in rows],
      **settings,
    ),
    "length_controlled": length_control.summarize(
      np.array([_WINS[outcomes[i]] for i in judged]),
      length_control.scaled_differences(*lengths[judged].T, of_judged),
      languages=of_judged,
      clusters=[clusters[i] for i in judged],
      **settings,
    ),
    "judging": _judging(languages, verdicts, outcomes, lengths),
    "unjudged_languages": sorted(set(languages) - set(of_judged)),
  }


def _judging(languages, verdicts, outcomes, lengths) -> dict:
  """What each language's comparisons and verdicts were like."""
  rows = {}
  for code in sorted(set(languages)):
    of = [i for i, language in enumerate(languages) if language == code]
    told = collections.Counter(v for i in of for v in verdicts[i])
    decided = (judge_lib.A, judge_lib.B)
    rows[code] = {
      "comparisons": len(of),
      "no_verdict": sum(outcomes[i] == judge_lib.NO_VERDICT for i in of),
      "inconsistent": sum(
        outcomes[i] == judge_lib.TIE
        and verdicts[i] != (judge_lib.TIE, judge_lib.TIE)
        for i in of
      ),
      "first": told[decided[0]],
      "second": told[decided[1]],
      "length_a": float(lengths[of, 0].mean()),
      "length_b": float(lengths[of, 1].mean()),
    }
  return rows
