"""UL2's denoisers: lengths, densities, modes, and their inverse."""

import collections
import functools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mlm.data import objectives, ul2
from mlm.tokenizers import special

DENOISERS = ul2.published_denoisers()
PIECES, VOCABULARY = 32_000, 32_768
MODE = {VOCABULARY - 1 - i: mode for i, mode in enumerate(ul2.MODES)}
FIRST_SENTINEL = VOCABULARY - 4


def _objective(make=ul2.encoder_decoder, denoisers=DENOISERS, **lengths):
  return make(
    denoisers=denoisers,
    vocab_size=VOCABULARY,
    **(lengths or {"inputs_length": 128}),
  )


def _text(size, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(300, PIECES, size).astype(np.int32)


def _restored(inputs, targets):
  """The text: targets' spans in the places of the inputs' sentinels."""
  assert inputs[0] in MODE
  assert inputs[-1] == targets[-1] == special.EOS_ID
  spans, name = {}, None
  for token in targets[:-1]:
    if token >= PIECES:
      name = token
      spans[name] = []
    else:
      spans[name].append(token)
  assert list(spans) == [FIRST_SENTINEL - i for i in range(len(spans))]
  text = []
  for token in inputs[1:-1]:
    text += spans.pop(token) if token >= PIECES else [token]
  assert not spans
  return text


def _real(tokens):
  return tokens[: int(np.sum(tokens != 0))].tolist()


@hypothesis.given(
  size=st.integers(2, 140),
  seed=st.integers(0, 1000),
  length=st.integers(24, 160),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_every_row_gives_its_window_back(size, seed, length):
  for make, lengths in (
    (ul2.encoder_decoder, {"inputs_length": length}),
    (ul2.decoder_only, {"length": length}),
  ):
    objective = _objective(make, **lengths)
    tokens = _text(min(size, objective.raw_length), seed)
    row = objective.features(tokens, np.random.default_rng(seed))
    targets = _real(row["decoder_target_tokens"])
    if make is ul2.encoder_decoder:
      inputs = _real(row["encoder_input_tokens"])
    else:
      cut = len(targets) - int(row["decoder_loss_weights"].sum())
      inputs, targets = targets[:cut], targets[cut:]
      assert row["decoder_causal_attention"].sum() == cut + 1
    assert _restored(inputs, targets) == tokens.tolist()


@pytest.mark.parametrize("denoiser", ul2.published_denoisers(), ids=str)
def test_a_denoiser_hides_its_share_in_spans_of_its_length(denoiser):
  objective = _objective(denoisers=[denoiser], inputs_length=1024)
  tokens = _text(objective.raw_length)
  row = objective.features(tokens, np.random.default_rng(0))
  # The row's length is that of this denoiser alone: full on both sides.
  assert np.all(row["encoder_input_tokens"])
  assert np.all(row["decoder_target_tokens"])
  assert MODE[row["encoder_input_tokens"][0]] == denoiser.mode
  targets = row["decoder_target_tokens"]
  spans = int(np.sum(targets >= PIECES))
  hidden = len(targets) - 1 - spans
  assert hidden / len(tokens) == pytest.approx(denoiser.noise_density, abs=1e-3)
  if denoiser.mean_span == math.inf:
    # A prefix to go on from: one sentinel at the end of the inputs.
    assert spans == 1
    assert row["encoder_input_tokens"][-2] == FIRST_SENTINEL
    np.testing.assert_array_equal(targets[1:-1], tokens[-hidden:])
  else:
    assert hidden / spans == pytest.approx(denoiser.mean_span, rel=0.1)


def test_lengths_are_those_of_t5_but_for_the_mode_token():
  """One denoiser of T5's in inputs of 513, one for the mode token."""
  t5 = ul2.Denoiser("R", 0.15, 3.0)
  assert ul2.encoder_decoder_lengths(513, [t5]) == (568, 114)
  assert objectives.span_corruption_lengths(
    512, noise_density=0.15, mean_span=3.0
  ) == (568, 114)


def test_the_seven_are_equally_likely_and_drawn_from_the_rows_generator():
  objective = _objective(inputs_length=256)
  tokens = _text(objective.raw_length)
  kinds, draws = collections.Counter(), 2800
  for seed in range(draws):
    row = objective.features(tokens, np.random.default_rng((5, seed)))
    again = objective.features(tokens, np.random.default_rng((5, seed)))
    for name in row:
      np.testing.assert_array_equal(row[name], again[name])
    mode = MODE[row["encoder_input_tokens"][0]]
    kinds[mode, int(row["decoder_segment_ids"].sum())] += 1
  assert len(kinds) == 7
  assert {m: sum(k == m for k, _ in kinds) for m in "RXS"} == {
    "R": 2,
    "X": 4,
    "S": 1,
  }
  error = math.sqrt(draws / 7 * 6 / 7)
  assert all(abs(n - draws / 7) < 4 * error for n in kinds.values())


def test_extra_ids_lie_behind_the_pieces_and_too_few_are_refused():
  denoisers = ul2.published_denoisers()
  raw, _ = ul2.encoder_decoder_lengths(512, denoisers)
  extra = ul2.num_extra_ids(raw, denoisers)
  assert extra == 98
  objective = ul2.encoder_decoder(
    vocab_size=1000 + extra, inputs_length=512, denoisers=denoisers
  )
  seen = set()
  for seed in range(100):
    row = objective.features(
      np.full(raw, 400, np.int32), np.random.default_rng(seed)
    )
    for name in ("encoder_input_tokens", "decoder_target_tokens"):
      seen.update(row[name][row[name] > 400].tolist())
  assert seen == set(objective.extra_ids) == set(range(1000, 1000 + extra))
  check = functools.partial(objectives.check_ids, objective)
  check(num_pieces=1000, vocab_size=1098)
  for pieces, size in ((1001, 1098), (1000, 1097)):
    with pytest.raises(ValueError, match=f"a vocab_size of {pieces + 98} has"):
      check(num_pieces=pieces, vocab_size=size)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="too short"):
    _objective(inputs_length=3)
  with pytest.raises(ValueError, match=r"unknown modes \['Q'\]"):
    _objective(denoisers=[ul2.Denoiser("Q", 0.15, 3.0)], inputs_length=64)
