"""Bits per byte of held-out text, per language, beside the unigram baseline.

Bits per byte do not depend on the tokenizer, so models with different
vocabularies can be compared within a language. They cannot be compared across
languages: a byte of Thai carries less than a byte of English.

Letters: B rows, T tokens a row, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
  """Totals of one language.

  Attributes:
    documents: documents scored.
    tokens: tokens scored, one EOS a document included.
    bytes: UTF-8 bytes of the documents.
    bits: total negative log2-likelihood.
  """

  documents: int
  tokens: int
  bytes: int
  bits: float

  @property
  def bits_per_byte(self) -> float:
    return self.bits / self.bytes


def token_rows(
  documents: Iterable[Sequence[int]], *, length: int
) -> Iterator[np.ndarray]:
  """Cuts tokenised documents (EOS included) into rows of at most `length`."""
  for tokens in documents:
    for start in range(0, len(tokens), length):
      yield np.asarray(tokens[start : start + length], np.int32)


def _batch(
  rows: list[np.ndarray], batch_size: int, length: int, language_id: int
) -> dict:
  """A batch of one segment a row, padded to [batch_size, length]."""
  targets = np.zeros((batch_size, length), np.int32)
  segments = np.zeros((batch_size, length), np.int32)
  for i, row in enumerate(rows):
    targets[i, : len(row)] = row
    segments[i, : len(row)] = 1
  inputs = np.zeros_like(targets)
  inputs[:, 1:] = targets[:, :-1] * segments[:, 1:]
  return {
    "decoder_input_tokens": inputs,
    "decoder_target_tokens": targets,
    "decoder_loss_weights": segments.astype(np.float32),
    "decoder_positions": np.tile(
      np.arange(length, dtype=np.int32), (batch_size, 1)
    ),
    "decoder_segment_ids": segments,
    "decoder_language_ids": np.full_like(targets, language_id),
  }


def score_documents(
  texts: Sequence[str],
  *,
  encode: Callable[[str], list[int]],
  eos_id: int,
  sequence_logprobs: Callable[[dict], jax.Array],
  language_id: int,
  length: int,
  batch_size: int,
) -> Score:
  """Scores the documents of one language.

  A document longer than `length` tokens is scored in pieces, each without the
  context of the one before, so long documents are scored a little too badly.

  Args:
    texts: documents, at least one.
    encode: text -> token ids without EOS.
    eos_id: appended to each document.
    sequence_logprobs: batch -> float32 [B] summed log-probability in nats.
    language_id: index of the language in the registry.
    length: T.
    batch_size: B.

  Raises:
    ValueError: if there is no document.
  """
  if not texts:
    raise ValueError("no documents to score; the validation split is empty")
  tokenized = [[*encode(text), eos_id] for text in texts]
  rows = list(token_rows(tokenized, length=length))
  nats = 0.0
  for start in range(0, len(rows), batch_size):
    batch = _batch(
      rows[start : start + batch_size], batch_size, length, language_id
    )
    nats -= float(np.sum(np.asarray(sequence_logprobs(batch), np.float64)))
  return Score(
    documents=len(texts),
    tokens=sum(map(len, tokenized)),
    bytes=sum(len(text.encode()) for text in texts),
    bits=nats / math.log(2),
  )


def unigram_entropy(counts: np.ndarray) -> float:
  """Entropy, in bits a token, of the distribution of counts [V].

  This is what a model would pay that knew each piece's frequency in the
  language and nothing else, on the text the counts come from.
  """
  probabilities = counts[counts > 0] / counts.sum()
  return float(-(probabilities * np.log2(probabilities)).sum())


def unigram_cross_entropy(train: np.ndarray, held_out: np.ndarray) -> float:
  """Bits a token on held-out counts under smoothed training frequencies.

  p(v) = (train(v) + a) / (sum + a V), with the a of a fixed grid that is best
  on the held-out counts: the baseline gets the benefit of the doubt.

  Args:
    train: [V] piece counts in the training text.
    held_out: [V] piece counts in the held-out text.
  """
  best = math.inf
  for smoothing in 10.0 ** np.arange(-4, 1.25, 0.25):
    probabilities = (train + smoothing) / (train.sum() + smoothing * len(train))
    bits = -(held_out * np.log2(probabilities)).sum() / held_out.sum()
    best = min(best, float(bits))
  return best


def piece_counts(
  texts: Iterable[str],
  *,
  encode: Callable[[str], list[int]],
  eos_id: int,
  vocab_size: int,
) -> np.ndarray:
  """Counts [V] of the pieces of all texts, one EOS a text."""
  counts = np.zeros(vocab_size, np.int64)
  for text in texts:
    counts += np.bincount([*encode(text), eos_id], minlength=vocab_size)
  return counts
