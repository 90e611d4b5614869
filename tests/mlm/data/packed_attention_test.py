"""Rows of packed documents through the decoder: none sees another."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from mlm.data import objectives
from mlm.models import decoder
from mlm.tokenizers import special
from tests import tiny_models

LENGTH, VOCABULARY = 24, 48
CAUSAL = objectives.causal(length=LENGTH)
NAMES = ("decoder_input_tokens", "decoder_positions", "decoder_segment_ids")


@pytest.fixture(scope="module")
def logits_of():
  """Row of features -> logits [LENGTH, V]."""
  model = decoder.build(
    dataclasses.replace(tiny_models.DECODER, vocab_size=VOCABULARY)
  )
  rng = np.random.default_rng(0)
  # Larger than at initialisation, so that every path matters to the logits.
  params = jax.tree.map(
    lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype),
    jax.jit(model.init)(jax.random.key(0)),
  )

  @jax.jit
  def apply(batch):
    outputs = model.apply(params, batch)
    return (outputs["hidden"] @ outputs["unembedding"])[0]

  return lambda row: np.asarray(apply({n: row[n][None] for n in NAMES}))


def _document(rng, size):
  tokens = rng.integers(5, VOCABULARY, size).astype(np.int32)
  tokens[-1] = special.EOS_ID
  return tokens


def _row(documents):
  return CAUSAL.features(np.concatenate(documents), None)


@hypothesis.given(
  sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6).filter(
    lambda sizes: sum(sizes) <= LENGTH
  ),
  cuts_last=st.booleans(),
  seed=st.integers(0, 99),
  data=st.data(),
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_a_document_in_a_row_is_as_if_alone(
  logits_of, sizes, cuts_last, seed, data
):
  """To 1e-4: a sum over masked slots has its terms in another order."""
  rng = np.random.default_rng(seed)
  documents = [_document(rng, size) for size in sizes]
  if cuts_last:  # as a window does
    documents[-1][-1] = 7
  row = _row(documents)
  assert sorted(set(row["decoder_segment_ids"]) - {0}) == [
    *range(1, len(sizes) + 1)
  ]
  packed = logits_of(row)
  starts = np.cumsum([0, *sizes])
  for document, start in zip(documents, starts):
    alone = logits_of(_row([document]))[: len(document)]
    np.testing.assert_allclose(
      packed[start : start + len(document)], alone, rtol=1e-4, atol=1e-4
    )
  # Other tokens in one document: bit for bit the same in the others.
  changed = data.draw(st.integers(0, len(sizes) - 1))
  documents[changed] = _document(rng, sizes[changed])
  elsewhere = row["decoder_segment_ids"] != changed + 1
  elsewhere &= row["decoder_segment_ids"] > 0
  again = logits_of(_row(documents))
  np.testing.assert_array_equal(again[elsewhere], packed[elsewhere])


def test_a_change_inside_a_document_does_reach_what_follows_in_it(logits_of):
  rng = np.random.default_rng(0)
  documents = [_document(rng, 8), _document(rng, 8)]
  before = logits_of(_row(documents))
  documents[0][0] = documents[0][0] % 40 + 6
  after = logits_of(_row(documents))
  # The first token is an input from the second position on.
  assert (np.abs(after[1:8] - before[1:8]).max(axis=1) > 1e-3).all()
