"""Stopping a policy that earns its reward by getting worse.

A learned reward can be raised in ways that nobody wants. What can be checked
without it (the right language, an end, no repetition) then falls. The rule
compares the last window of steps with the first, by language: an average hides
the one language that pays. Beside the whole last window it looks at its half,
its quarter and so on, by which a sudden fall is seen at once; most of the error
that may be made is kept for the whole window, which sees slow ones.

Each step is one line {"step", "by_language": {code: {"prompts", "verified",
"verified_squares", "proxy"}}} of sums over prompts, a prompt counting as the
mean of its samples; at the end of a window, and where a policy is stopped,
"look" has what was seen.
"""

import collections
import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm.training import metrics as metrics_lib

TOGETHER = "together"  # all languages, beside each of them
FILE = "watched.jsonl"
_SUMS = ("prompts", "verified", "verified_squares", "proxy")
# Of the error that may be made, for the whole window; of the rest, for its
# half; and so on. Falls of 80 steps are then seen as soon as with all of it.
_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Rule:
  """When to stop.

  Attributes:
    window: steps of the first window, and of the longest that is compared with
      it; one of n steps is looked at every n steps.
    max_fall: fall of the mean verifiable reward that is tolerated, >= 0.
    confidence: that a run whose verifiable reward falls by no more than that is
      never stopped, over all its looks and languages (Bonferroni).
    min_prompts: of a language in a window; with fewer it is not judged. The
      test is normal: 20 or more.
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

  A language stops the policy if its verifiable reward in the last window, whole
  or halved some times, lies below that in the first by more than max_fall with
  confidence, one-sided and normal, and its learned reward above. A window's
  variance counts as no less than the first's: of few prompts it can be 0.

  Args:
    lines: of `line`, for the steps 0 to now.
    rule: the limits.
    num_steps: of the whole run, which says how often there is a look.
    num_languages: that the run may meet.

  Returns:
    {code or "together": {"verified", "proxy": [mean of the first window, of the
    last], "error": standard error of the fall of the first, "limit": fall from
    which on the policy is stopped, "steps": of the last window, "stops": whether
    it is}}, of the longest window that stops it, else that is looked at now.
  """
  seen: dict[str, dict] = {}
  first = None
  for steps, error in _errors(rule):
    if len(lines) % steps or len(lines) < rule.window + steps:
      continue
    first = first or _window(lines[: rule.window])
    num_tests = max((num_steps - rule.window) // steps, 1) * (num_languages + 1)
    z = statistics.NormalDist().inv_cdf(1 - error / num_tests)
    for code, now in _window(lines[-steps:]).items():
      before = first.get(code)
      if before is None or min(before.prompts, now.prompts) < rule.min_prompts:
        continue
      variance = before.variance / before.prompts
      variance += max(before.variance, now.variance) / now.prompts
      limit = rule.max_fall + z * math.sqrt(variance)
      row = {
        "verified": [before.verified, now.verified],
        "proxy": [before.proxy, now.proxy],
        "error": math.sqrt(variance),
        "limit": limit,
        "steps": steps,
        "stops": before.verified - now.verified > limit
        and now.proxy > before.proxy,
      }
      if code not in seen or row["stops"] > seen[code]["stops"]:
        seen[code] = row
  return seen


def _errors(rule: Rule) -> list[tuple[int, float]]:
  """Steps of each window, the longest first, and the error it may make."""
  left, found = 1 - rule.confidence, []
  steps = rule.window
  while steps > 1:
    found.append((steps, _SHARE * left))
    left *= 1 - _SHARE
    steps //= 2
  return [*found, (1, left)]


def told(seen: Mapping[str, Mapping]) -> dict[str, str]:
  """Languages that stop the policy, and why, of what `look` saw."""
  return {
    code: "verifiable reward {:.3f} -> {:.3f} (standard error of the fall "
    "{:.3f}), learned reward {:.3f} -> {:.3f}, in the last {} steps".format(
      *row["verified"], row["error"], *row["proxy"], row["steps"]
    )
    for code, row in seen.items()
    if row["stops"]
  }


class _Mean(NamedTuple):
  """Of a language in a window; the variance is that of a prompt."""

  prompts: float
  verified: float
  variance: float
  proxy: float


def _window(lines: Sequence[Mapping]) -> dict[str, _Mean]:
  sums: dict = collections.defaultdict(lambda: np.zeros(len(_SUMS)))
  for of_step in lines:
    for code, row in of_step["by_language"].items():
      sums[code] += [row[name] for name in _SUMS]
  found = {}
  for code, of_code in sums.items():
    n, total, squares, proxy = of_code.tolist()
    variance = max(squares / n - (total / n) ** 2, 0) * n / max(n - 1, 1)
    found[code] = _Mean(n, total / n, variance, proxy / n)
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
    why = told(seen)
    if why or (seen and len(lines) % rule.window == 0):
      lines[-1]["look"] = seen
    metrics_lib.append(path, lines[-1])
    if why:
      on_told(step, why, state)
    return batch

  return source


def stop(step: int, told: dict[str, str], state: Any) -> None:
  """Raises `Stopped`."""
  raise Stopped(step, told, state)
