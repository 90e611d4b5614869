"""Prompts and responses as token rows and batches; numpy only.

A row is [B, P + R]: the prompt left-padded in the first P columns, so that
every response starts at column P, then the response, EOS and padding.

Letters: B rows, P prompt columns, R response columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlm.data import schedule as schedule_lib
from mlm.languages import rates as rates_lib
from mlm.tokenizers import special


def prompt_ids(processor: Any, prompt: str | Sequence[str]) -> list[int]:
  """[USER] + pieces of the prompt + [ASSISTANT].

  Args:
    processor: SentencePiece processor.
    prompt: a text, or the turns of a conversation, the user's first and last;
      an assistant's turn is followed by EOS, as its responses are.
  """
  turns = [prompt] if isinstance(prompt, str) else prompt
  ids = []
  for place, turn in enumerate(turns):
    if place % 2:
      ids += [special.ASSISTANT_ID, *response_ids(processor, turn)]
    else:
      ids += [special.USER_ID, *processor.encode(turn)]
  return [*ids, special.ASSISTANT_ID]


def response_ids(processor: Any, text: str) -> list[int]:
  """Pieces of the response + [EOS]."""
  return [*processor.encode(text), special.EOS_ID]


def prompt_rows(
  prompts: Sequence[Sequence[int]], *, prompt_length: int
) -> np.ndarray:
  """Left-padded prompts, int32 [B, P].

  Raises:
    ValueError: if a prompt is longer than P.
  """
  rows = np.full((len(prompts), prompt_length), special.PAD_ID, np.int32)
  for row, ids in zip(rows, prompts):
    if len(ids) > prompt_length:
      raise ValueError(
        f"a prompt of {len(ids)} tokens exceeds prompt_length {prompt_length}; "
        "shorten it, or raise PROMPT_LENGTH"
      )
    row[prompt_length - len(ids) :] = ids
  return rows


def response_rows(
  responses: Sequence[Sequence[int]], *, response_length: int
) -> np.ndarray:
  """Responses padded on the right, int32 [B, R].

  Raises:
    ValueError: if a response, EOS included, is longer than R.
  """
  rows = np.full((len(responses), response_length), special.PAD_ID, np.int32)
  for row, ids in zip(rows, responses):
    if len(ids) > response_length:
      raise ValueError(
        f"a response of {len(ids)} tokens exceeds response_length "
        f"{response_length}; shorten it, or raise RESPONSE_LENGTH"
      )
    row[: len(ids)] = ids
  return rows


def response_batch(
  rows: np.ndarray, language_ids: np.ndarray, *, prompt_length: int
) -> dict[str, np.ndarray]:
  """The six arrays that a decoder learns a response from.

  Targets and loss weights are those of the response, [B, R]; the tokens that
  are read, their positions, segments and languages are [B, P + R - 1].

  Args:
    rows: int32 [B, P + R].
    language_ids: int32 [B], `registry.index` of each row's language.
    prompt_length: P.
  """
  rows = np.asarray(rows, np.int32)
  real = rows != special.PAD_ID
  positions = np.maximum(np.cumsum(real, axis=1) - 1, 0).astype(np.int32)
  return {
    "decoder_input_tokens": rows[:, :-1],
    "decoder_target_tokens": rows[:, prompt_length:],
    "decoder_loss_weights": real[:, prompt_length:].astype(np.float32),
    "decoder_positions": positions[:, :-1],
    "decoder_segment_ids": real[:, :-1].astype(np.int32),
    "decoder_language_ids": np.repeat(
      np.asarray(language_ids, np.int32)[:, None], rows.shape[1] - 1, axis=1
    ),
  }


def decode_response(
  processor: Any, ids: Sequence[int]
) -> tuple[str, list[int], bool]:
  """Text of a sampled response, its tokens, and whether it ended.

  Args:
    processor: SentencePiece processor.
    ids: R sampled tokens, padded.

  Returns:
    (text, tokens before the first EOS, control pieces left out; ended).
  """
  ids = [int(i) for i in ids]
  ended = special.EOS_ID in ids
  if ended:
    ids = ids[: ids.index(special.EOS_ID)]
  tokens = [i for i in ids if i >= special.FIRST_BYTE_ID]
  return processor.decode(tokens), tokens, ended


def record_drawer(
  records: Sequence[Mapping],
  *,
  batch_size: int,
  temperature: float,
  seed: int,
) -> Callable[[int], list[Mapping]]:
  """Builds step -> B records: a language by temperature, then a record of it.

  Records of a language are all drawn before one is drawn again.

  Args:
    records: with a key "language", at least one.
    batch_size: B.
    temperature: T of p ∝ n^(1/T) over the records of a language.
    seed: with the step, all that the draw depends on.

  Raises:
    ValueError: if there are no records.
  """
  if not records:
    raise ValueError(
      "no records to draw from; make them first, or loosen "
      "the filters that dropped them all"
    )
  by_language: dict[str, list[Mapping]] = {}
  for record in records:
    by_language.setdefault(record["language"], []).append(record)
  rates = rates_lib.temperature_rates(
    {code: len(rows) for code, rows in by_language.items()},
    temperature=temperature,
  )
  schedule = schedule_lib.Schedule(
    [schedule_lib.Phase(0, rates)], batch_size=batch_size, seed=seed
  )

  def draw(step: int) -> list[Mapping]:
    drawn = []
    for code, number in schedule.draws(step, range(batch_size)):
      rows = by_language[code]
      epoch, place = divmod(number, len(rows))
      key = schedule_lib.mix(seed, epoch, *code.encode())
      drawn.append(rows[schedule_lib.permuted(place, len(rows), key)])
    return drawn

  return draw
