"""Preference pairs: records, and the batches a reward model learns from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.data import prompts
from mlm.languages import registry


def on_policy_pairs(
  records: Sequence[Mapping], samples: Sequence[str], *, source: str
) -> Iterator[dict]:
  """Pairs a record's own response, chosen, with a sample of the policy.

  The chosen response was written by a person. A sample equal to it, or empty,
  gives no pair.

  Args:
    records: instruction records.
    samples: one sampled response a record.
    source: where the samples come from, kept in the pair.
  """
  for record, sample in zip(records, samples, strict=True):
    if sample.strip() and sample.strip() != record["response"].strip():
      yield {
        "id": record["id"],
        "language": record["language"],
        "prompt": record["prompt"],
        "chosen": record["response"],
        "rejected": sample,
        "source": source,
      }


def text_rows(
  texts: Sequence[tuple[str | Sequence[str], str, bool]],
  *,
  processor: Any,
  prompt_length: int,
  response_length: int,
) -> np.ndarray:
  """Token rows of prompts and responses given as text, int32 [N, P + R].

  A sampled text may take more pieces to encode than it was sampled with; what
  exceeds R is cut before EOS.

  Args:
    texts: (prompt, a text or turns, response, whether it ended) of each.
    processor: SentencePiece processor.
    prompt_length: P.
    response_length: R; of a response that did not end, R tokens without EOS.
  """
  rows = prompts.prompt_rows(
    [prompts.prompt_ids(processor, prompt) for prompt, *_ in texts],
    prompt_length=prompt_length,
  )
  encoded = []
  for _, response, ended in texts:
    ids = prompts.response_ids(processor, response)
    if not ended:
      ids = ids[:-1][:response_length]
    elif len(ids) > response_length:
      ids = ids[: response_length - 1] + ids[-1:]
    encoded.append(ids)
  responses = prompts.response_rows(encoded, response_length=response_length)
  return np.concatenate([rows, responses], axis=1)


def pair_rows(
  pairs: Sequence[Mapping],
  *,
  processor: Any,
  prompt_length: int,
  response_length: int,
) -> dict[str, np.ndarray]:
  """Token rows of pairs, each encoded from its text and cut to fit.

  Both responses end with EOS; see `text_rows`.

  Returns:
    {"chosen_rows", "rejected_rows": int32 [B, P + R], "language_ids": [B],
    "margins": float32 [B]}; the margin of a pair without one is 0.
  """

  def with_response(side):
    return text_rows(
      [(pair["prompt"], pair[side], True) for pair in pairs],
      processor=processor,
      prompt_length=prompt_length,
      response_length=response_length,
    )

  return {
    "chosen_rows": with_response("chosen"),
    "rejected_rows": with_response("rejected"),
    "language_ids": np.array(
      [registry.index(pair["language"]) for pair in pairs], np.int32
    ),
    "margins": np.array(
      [pair.get("margin", 0.0) for pair in pairs], np.float32
    ),
  }


def pair_source(
  pairs: Sequence[Mapping],
  *,
  processor: Any,
  prompt_length: int,
  response_length: int,
  batch_size: int,
  temperature: float,
  seed: int,
) -> Callable[[int], dict[str, np.ndarray]]:
  """Builds step -> batch of pairs, languages drawn by temperature."""
  draw = prompts.record_drawer(
    pairs, batch_size=batch_size, temperature=temperature, seed=seed
  )
  return lambda step: pair_rows(
    draw(step),
    processor=processor,
    prompt_length=prompt_length,
    response_length=response_length,
  )
