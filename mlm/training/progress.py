"""What the lines of metrics say besides the metrics: rates, shares of the plan.

Each function takes lines to what is added to them; a job chooses those that it
has the numbers for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Describe = Callable[[dict[str, Any], int], dict[str, Any]]


def throughput(
  *, flops_per_step: float, peak_flops_per_second: float | None
) -> Describe:
  """Tokens and model FLOPs a second over the whole time of a line, and MFU.

  Args:
    flops_per_step: matrix-multiplication FLOPs of forward and backward for a
      whole batch, recomputation not counted, causal attention by half.
    peak_flops_per_second: of all devices; None where it is not known, and then
      there is no mfu.

  Returns:
    (line, number of its steps) -> {"tokens_per_second",
    "model_flops_per_second", "mfu"}.

  Source: Chowdhery et al. 2022 (PaLM), appendix B, for model FLOPs utilization.
  """

  def describe(record, num_steps):
    flops = num_steps * flops_per_step / record["seconds"]
    found = {
      "tokens_per_second": record["tokens"] / record["seconds"],
      "model_flops_per_second": flops,
    }
    if peak_flops_per_second is not None:
      found["mfu"] = flops / peak_flops_per_second
    return found

  return describe


def bits_per_byte(bytes_per_token: Mapping[str, float]) -> Describe:
  """Bits a byte of the training text by language, comparable across tokenizers.

  loss / ln 2 / bytes per token; of losses on every token of a text.

  Args:
    bytes_per_token: language code -> UTF-8 bytes a token, of the whole corpus.
  """

  def describe(record, num_steps):
    del num_steps
    return {
      "bits_per_byte_by_language": {
        code: loss / math.log(2) / bytes_per_token[code]
        for code, loss in record["loss_by_language"].items()
        if bytes_per_token.get(code)
      }
    }

  return describe


def epochs(
  *,
  tokens_available: Mapping[str, int],
  before: Sequence[Mapping[str, Any]],
) -> Describe:
  """Times that each language's tokens were seen since step 0.

  Args:
    tokens_available: language code -> tokens of one epoch.
    before: the lines of the run so far.

  Returns:
    (line, number of its steps) -> {"epochs_by_language"}. Called once a line,
    in order.
  """
  seen = {}

  def add(record):
    for code, number in record["tokens_by_language"].items():
      seen[code] = seen.get(code, 0.0) + number

  for record in before:
    add(record)

  def describe(record, num_steps):
    del num_steps
    add(record)
    return {
      "epochs_by_language": {
        code: seen[code] / tokens_available[code]
        for code in sorted(seen)
        if tokens_available.get(code)
      }
    }

  return describe


def nothing(record: dict[str, Any], num_steps: int) -> dict[str, Any]:
  """Adds nothing."""
  del record, num_steps
  return {}


def together(*describes: Describe) -> Describe:
  """All that they say, in one function."""

  def describe(record, num_steps):
    found = {}
    for of_one in describes:
      found.update(of_one(record, num_steps))
    return found

  return describe
