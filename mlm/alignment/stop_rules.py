"""Stopping a policy that earns its reward by getting worse.

A learned reward can be raised in ways that nobody wants. What can be checked
without it (the right language, an end, no repetition) then falls. The rule
compares the last window of steps with the first, by language: an average hides
the one language that pays.

Each step is one line {"step", "by_language": {code: {"prompts", "verified",
"verified_squares", "proxy"}}} of sums over prompts, a prompt counting as the
mean of its samples; where there was a look, "look" has what it saw.
"""

import collections
import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.training import metrics as metrics_lib

TOGETHER = "together"  # all languages, beside each of them
FILE = "watched.jsonl"
_SUMS = ("prompts", "verified", "verified_squares", "proxy")


@dataclasses.dataclass(frozen=True)
class Rule:
  """When to stop.

  Attributes:
    window: steps of a window; there is a look at the end of each but the first.
    max_fall: fall of the mean verifiable reward that is tolerated, >= 0.
    confidence: that a run whose verifiable reward falls by no more than that is
      never stopped, over all its looks and languages (Bonferroni).
    min_prompts: of a language in a window; with fewer it is not judged.
  """

  window: int
  max_fall: float
  confidence: float
  min_prompts: int

  def __post_init__(self):
    if self.window < 1 or self.max_fall < 0 or self.min_prompts < 2:
      raise ValueError(
        f"window {self.window} must be at least 1, max_fall {self.max_fall} 0 "
        f"or more, min_prompts {self.min_prompts} at least 2"
      )
    if not 0 < self.confidence < 1:
      raise ValueError(f"confidence {self.confidence} must be in (0, 1)")


class Stopped(ValueError):
  """A policy was stopped before an update.

  Attributes:
    step: updates that were made.
    told: language -> what was seen.
    state: the train state after those updates.
  """

  def __init__(self, step: int, told: Mapping[str, str], state: Any):
    lines = "\n".join(f"  {code}: {why}" for code, why in told.items())
    super().__init__(
      f"stopped before step {step}: the learned reward rises while what can be "
      f"checked falls:\n{lines}\nuse a checkpoint before, raise the KL "
      "coefficient, or train the reward model on more pairs of these languages"
    )
    self.step, self.told, self.state = step, told, state


def line(
  step: int,
  *,
  codes: Sequence[str],
  verified: np.ndarray,
  proxy: np.ndarray,
) -> dict:
  """The sums of one step.

  Args:
    step: number of updates made before.
    codes: language of each of B prompts.
    verified: float [B, K] verifiable reward of the samples.
    proxy: float [B, K] learned reward.
  """
  sums: dict = collections.defaultdict(lambda: dict.fromkeys(_SUMS, 0.0))
  for code, v, p in zip(codes, verified.mean(axis=1), proxy.mean(axis=1)):
    for name in (code, TOGETHER):
      of_prompt = (1.0, float(v), float(v) ** 2, float(p))
      for key, value in zip(_SUMS, of_prompt):
        sums[name][key] += value
  return {"step": step, "by_language": dict(sums)}


def look(
  lines: Sequence[Mapping],
  *,
  rule: Rule,
  num_steps: int,
  num_languages: int,
) -> dict[str, dict]:
  """What is seen of each language now.

  A language stops the policy if its verifiable reward in the last window lies
  below that in the first by more than max_fall with confidence, one-sided and
  normal, and its learned reward above.

  Args:
    lines: of `line`, for the steps 0 to now.
    rule: the limits.
    num_steps: of the whole run, which says how often there is a look.
    num_languages: that the run may meet.

  Returns:
    {code or "together": {"verified", "proxy": [mean of the first window, of the
    last], "error": standard error of the fall of the first, "limit": fall from
    which on the policy is stopped, "stops": whether it is}}; empty between looks.
  """
  if len(lines) % rule.window or len(lines) < 2 * rule.window:
    return {}
  first = _window(lines[: rule.window])
  last = _window(lines[-rule.window :])
  num_tests = max(num_steps // rule.window - 1, 1) * (num_languages + 1)
  z = statistics.NormalDist().inv_cdf(1 - (1 - rule.confidence) / num_tests)
  seen = {}
  for code, before in first.items():
    now = last.get(code)
    if now is None or min(before[0], now[0]) < rule.min_prompts:
      continue
    error = math.hypot(before[2], now[2])
    limit = rule.max_fall + z * error
    seen[code] = {
      "verified": [before[1], now[1]],
      "proxy": [before[3], now[3]],
      "error": error,
      "limit": limit,
      "stops": bool(before[1] - now[1] > limit and now[3] > before[3]),
    }
  return seen


def told(seen: Mapping[str, Mapping]) -> dict[str, str]:
  """Languages that stop the policy, and why, of what `look` saw."""
  return {
    code: "verifiable reward {:.3f} -> {:.3f} (standard error of the fall "
    "{:.3f}), learned reward {:.3f} -> {:.3f}".format(
      *row["verified"], row["error"], *row["proxy"]
    )
    for code, row in seen.items()
    if row["stops"]
  }


def _window(lines) -> dict[str, tuple[float, float, float, float]]:
  """Language -> prompts, mean verified, its standard error, mean proxy."""
  sums: dict = collections.defaultdict(lambda: np.zeros(len(_SUMS)))
  for of_step in lines:
    for code, row in of_step["by_language"].items():
      sums[code] += [row[name] for name in _SUMS]
  found = {}
  for code, (n, total, squares, proxy) in sums.items():
    mean = total / n
    variance = max(squares / n - mean**2, 0) * n / max(n - 1, 1)
    found[code] = (n, mean, math.sqrt(variance / n), proxy / n)
  return found


def watched(
  batch_source: Callable,
  *,
  rule: Rule,
  verified: Sequence[str],
  proxy: str,
  codes: Sequence[str],
  num_steps: int,
  num_languages: int,
  samples_per_prompt: int,
  output: str | os.PathLike,
  on_told: Callable[[int, dict[str, str], Any], None],
) -> Callable:
  """An RLOO batch source that looks at what it returns.

  Args:
    batch_source: of `mlm.alignment.rloo.make_batch_source`.
    rule: when to stop.
    verified: names of the reward parts whose mean is the verifiable reward.
    proxy: name of the part that is learned.
    codes: language of each id of the batches' language_ids.
    num_steps: of the run.
    num_languages: that its prompts are in.
    samples_per_prompt: K; rows are prompt-major.
    output: directory of the lines, by which a resumed run goes on.
    on_told: (step, told, state) -> None, such as `stop`.
  """
  path = os.path.join(output, FILE)
  lines: list[dict] | None = None

  def of_part(batch, name):
    return batch[f"reward_{name}"].reshape(-1, samples_per_prompt)

  def source(state):
    nonlocal lines
    batch = batch_source(state)
    step = int(state.step)
    if lines is None:
      metrics_lib.drop_from(path, step)
      lines = metrics_lib.read(path) if os.path.exists(path) else []
    ids = batch["language_ids"][::samples_per_prompt]
    lines.append(
      line(
        step,
        codes=[codes[i] for i in ids],
        verified=np.mean([of_part(batch, name) for name in verified], axis=0),
        proxy=of_part(batch, proxy),
      )
    )
    seen = look(
      lines, rule=rule, num_steps=num_steps, num_languages=num_languages
    )
    if seen:
      lines[-1]["look"] = seen
    metrics_lib.append(path, lines[-1])
    if why := told(seen):
      on_told(step, why, state)
    return batch

  return source


def stop(step: int, told: dict[str, str], state: Any) -> None:
  """Raises `Stopped`."""
  raise Stopped(step, told, state)
