"""Sampled responses to records, in batches of one compiled shape."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mlm.data import prompts


def spread_over_languages(
  records: Sequence[Mapping], limit: int
) -> list[Mapping]:
  """At most `limit` records, taken in turn from each language."""
  queues: dict[str, list[Mapping]] = {}
  for record in records:
    queues.setdefault(record["language"], []).append(record)
  taken: list[Mapping] = []
  depth = 0
  while len(taken) < min(limit, len(records)):
    taken += [rows[depth] for rows in queues.values() if depth < len(rows)]
    depth += 1
  return taken[:limit]


def prompt_id(record: Mapping) -> int:
  """uint32 of a record, the same in every batch it appears in."""
  digest = hashlib.sha256(record["id"].encode()).digest()
  return int.from_bytes(digest[:4], "little")


def prompt_arrays(
  records: Sequence[Mapping], *, processor: Any, prompt_length: int
) -> dict[str, np.ndarray]:
  """{"prompts": int32 [B, P], "prompt_ids": uint32 [B]} of records."""
  encoded = [prompts.prompt_ids(processor, r["prompt"]) for r in records]
  return {
    "prompts": prompts.prompt_rows(encoded, prompt_length=prompt_length),
    "prompt_ids": np.array([prompt_id(r) for r in records], np.uint32),
  }


def token_rows(
  records: Sequence[Mapping],
  responses: np.ndarray,
  *,
  processor: Any,
  prompt_length: int,
) -> np.ndarray:
  """Prompts before their sampled responses, int32 [B * K, P + R].

  Args:
    records: B, with "prompt".
    responses: int32 [B, K, R].
    processor: SentencePiece processor.
    prompt_length: P.
  """
  encoded = [prompts.prompt_ids(processor, r["prompt"]) for r in records]
  left = prompts.prompt_rows(encoded, prompt_length=prompt_length)
  num_samples, response_length = responses.shape[1:]
  return np.concatenate(
    [
      np.repeat(left, num_samples, axis=0),
      responses.reshape(-1, response_length),
    ],
    axis=1,
  )


def in_batches(
  function: Callable, arrays: Sequence[np.ndarray], size: int
) -> Any:
  """A function of equal-length arrays, called with `size` rows at a time.

  Args:
    function: of arrays of `size` rows each -> tree of arrays of as many.
    arrays: of N rows each, N >= 1; the last batch is filled with repeats.
    size: rows of a batch.

  Returns:
    The function's tree, with N rows.
  """
  total = len(arrays[0])
  results = []
  for start in range(0, total, size):
    index = np.arange(start, start + size) % total
    results.append(function(*(array[index] for array in arrays)))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *results)


def sample_responses(
  records: Sequence[Mapping],
  *,
  params: Any,
  sample: Callable,
  place: Callable,
  processor: Any,
  prompt_length: int,
  batch_size: int,
  seed: int,
) -> np.ndarray:
  """Responses to all records, int32 [len(records), K, R].

  Args:
    records: with "id" and "prompt".
    params: of the policy.
    sample: of `mlm.decoding.rollouts.make_sampler`.
    place: puts a dict of host arrays on the mesh.
    processor: SentencePiece processor.
    prompt_length: P.
    batch_size: prompts at a time; the last batch is filled with repeats.
    seed: of the sampling keys.
  """
  responses = []
  for start in range(0, len(records), batch_size):
    chunk = list(records[start : start + batch_size])
    filled = [chunk[i % len(chunk)] for i in range(batch_size)]
    arrays = place(
      prompt_arrays(filled, processor=processor, prompt_length=prompt_length)
    )
    drawn = sample(params, arrays["prompts"], arrays["prompt_ids"], seed, 0)
    responses.append(np.asarray(drawn.tokens)[: len(chunk)])
  return np.concatenate(responses)
