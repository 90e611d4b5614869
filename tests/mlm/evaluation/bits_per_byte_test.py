"""Bits per byte against closed forms."""

import math

import numpy as np
import pytest

from mlm.evaluation import bits_per_byte

EOS = 1
TEXTS = ["hello", "привет", "你好", "สวัสดี", "नमस्ते", "ሰላም", "שלום"]


def _encode(text):
  return [byte + 2 for byte in text.encode()]


def _uniform_logprobs(batch):
  """A model that gives each of 258 tokens the same probability."""
  return -batch["decoder_loss_weights"].sum(axis=1) * math.log(258)


@pytest.mark.parametrize("length, batch_size", [(4, 2), (100, 3)])
def test_a_uniform_model_pays_log2_of_the_vocabulary(length, batch_size):
  score = bits_per_byte.score_documents(
    TEXTS,
    encode=_encode,
    eos_id=EOS,
    sequence_logprobs=_uniform_logprobs,
    language_id=0,
    length=length,
    batch_size=batch_size,
  )
  num_bytes = sum(len(text.encode()) for text in TEXTS)
  assert score.documents == len(TEXTS)
  assert score.tokens == num_bytes + len(TEXTS)
  assert score.bytes == num_bytes
  assert score.bits == pytest.approx(score.tokens * math.log2(258))


def test_rows_keep_every_token_once_and_shift_inputs():
  seen = []

  def collect(batch):
    weights = batch["decoder_loss_weights"] > 0
    for i in range(len(weights)):
      targets = batch["decoder_target_tokens"][i][weights[i]]
      inputs = batch["decoder_input_tokens"][i][weights[i]]
      if len(targets):
        assert inputs[0] == 0
        np.testing.assert_array_equal(inputs[1:], targets[:-1])
      seen.extend(targets.tolist())
    return np.zeros(len(weights))

  bits_per_byte.score_documents(
    TEXTS,
    encode=_encode,
    eos_id=EOS,
    sequence_logprobs=collect,
    language_id=0,
    length=5,
    batch_size=4,
  )
  assert seen == [t for text in TEXTS for t in [*_encode(text), EOS]]


def test_no_documents_is_an_error():
  with pytest.raises(ValueError, match="no documents"):
    bits_per_byte.score_documents(
      [],
      encode=_encode,
      eos_id=EOS,
      sequence_logprobs=_uniform_logprobs,
      language_id=0,
      length=4,
      batch_size=1,
    )


def test_unigram_entropy_of_known_distributions():
  assert bits_per_byte.unigram_entropy(np.array([5, 5, 5, 5])) == 2
  assert bits_per_byte.unigram_entropy(np.array([2, 1, 1, 0])) == 1.5


def test_cross_entropy_of_ample_data_is_the_entropy():
  counts = np.array([4000, 2000, 1000, 1000])
  got = bits_per_byte.unigram_cross_entropy(counts, counts)
  assert got == pytest.approx(1.75, abs=1e-6)


def test_smoothing_pays_for_unseen_pieces():
  train, held_out = np.array([10, 10, 0, 0]), np.array([1, 1, 1, 1])
  got = bits_per_byte.unigram_cross_entropy(train, held_out)
  assert 2 <= got < 2.2  # the uniform distribution, 2 bits, is the optimum


def test_piece_counts_add_one_end_a_text():
  counts = bits_per_byte.piece_counts(
    TEXTS, encode=_encode, eos_id=EOS, vocab_size=258
  )
  assert counts[EOS] == len(TEXTS)
  assert counts.sum() == sum(len(_encode(t)) + 1 for t in TEXTS)
