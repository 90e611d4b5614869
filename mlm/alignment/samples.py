"""Sampled responses to read: a prompt of each language with all its responses.

Means do not show what a policy has begun to write. Each line is
{"step", "language", "id", "prompt", "responses": [{"text", "reward", "parts",
"kl", "length", "ended"}]}, of the first prompt of its language in a rollout.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.data import prompts
from mlm.training import metrics as metrics_lib

FILE = "samples.jsonl"
_PART = "reward_"  # what a batch has before the name of a part


def lines(
  records: Sequence[Mapping],
  batch: Mapping[str, np.ndarray],
  *,
  step: int,
  processor: Any,
) -> list[dict]:
  """A line for each language of a rollout, in the order of its prompts.

  Args:
    records: the B prompts, with "id", "language" and "prompt".
    batch: of `mlm.alignment.rollout_batches.make_rollout`, B * K rows.
    step: of the run, which the line is told apart by.
    processor: SentencePiece processor.
  """
  samples_per_prompt = len(batch["reward"]) // len(records)

  def response(row):
    counts = batch["decoder_loss_weights"][row] > 0
    ids = batch["decoder_target_tokens"][row][counts]
    return {
      "text": prompts.decode_response(processor, ids)[0],
      "reward": float(batch["reward"][row]),
      "parts": {
        name.removeprefix(_PART): float(values[row])
        for name, values in batch.items()
        if name.startswith(_PART)
      },
      "kl": float(batch["kl"][row]),
      "length": int(batch["length"][row]),
      "ended": bool(batch["ended"][row]),
    }

  found: dict[str, dict] = {}
  for place, record in enumerate(records):
    rows = range(place * samples_per_prompt, (place + 1) * samples_per_prompt)
    if record["language"] not in found:
      found[record["language"]] = {
        "step": step,
        "language": record["language"],
        "id": record["id"],
        "prompt": record["prompt"],
        "responses": [response(row) for row in rows],
      }
  return list(found.values())


def recorded(
  rollout: Callable,
  *,
  records: Callable[[int], Sequence[Mapping]],
  processor: Any,
  period: int,
  steps_per_rollout: int,
  output: str | os.PathLike,
) -> Callable:
  """A rollout that leaves some of what it returns to be read.

  Args:
    rollout: of `mlm.alignment.rollout_batches.make_rollout`.
    records: number of a rollout -> its B prompts.
    processor: SentencePiece processor.
    period: rollouts between two that leave their samples.
    steps_per_rollout: of the run, from the number of one to that of the next.
    output: directory of the run; what an earlier process wrote there from the
      first rollout on is dropped.
  """
  path = os.path.join(output, FILE)
  has_begun = False

  def recording(policy, number):
    nonlocal has_begun
    step = number * steps_per_rollout
    if not has_begun:
      metrics_lib.drop_from(path, step)
      has_begun = True
    batch, of_prompts = rollout(policy, number)
    if number % period == 0:
      for line in lines(records(number), batch, step=step, processor=processor):
        metrics_lib.append(path, line)
    return batch, of_prompts

  return recording
