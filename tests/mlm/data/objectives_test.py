"""Objectives against T5's published lengths, closed forms and their inverse."""

import collections
import itertools
import math

import numpy as np
import pytest

from mlm.data import objectives
from mlm.tokenizers import special

FIRST = 32_127  # sentinel


@pytest.mark.parametrize(
  "inputs, noise_density, mean_span, raw, targets",
  [
    # t5 0.9.4, preprocessors.random_spans_helper, one sentinel a span.
    *(
      (n, 0.15, 3.0, *of)
      for n, of in {
        128: (141, 29),
        256: (284, 58),
        512: (568, 114),
        1024: (1137, 229),
        2048: (2274, 456),
      }.items()
    ),
    (64, 0.5, 3.0, 94, 64),
    (512, 0.5, 3.0, 766, 512),
    (2048, 0.5, 64.0, 4030, 2048),
    (512, 0.15, 8.0, 588, 100),
    (114, 0.15, 3.0, 126, 26),
  ],
)
def test_lengths_are_those_of_t5(
  inputs, noise_density, mean_span, raw, targets
):
  assert objectives.span_corruption_lengths(
    inputs, noise_density=noise_density, mean_span=mean_span
  ) == (raw, targets)


def _corrupt(tokens, seed, **options):
  return objectives.corrupt(
    tokens,
    np.random.default_rng(seed),
    **{"noise_density": 0.15, "mean_span": 3.0, **options},
    first_sentinel=FIRST,
  )


def _spans(ids):
  """{sentinel: tokens behind it}; None for those before the first."""
  spans, name = {None: []}, None
  for token in ids:
    if token > 30_000:
      name = token
      spans[name] = []
    else:
      spans[name].append(token)
  return spans


@pytest.mark.parametrize("size", [2, 3, 7, 50, 568])
def test_inputs_and_targets_together_are_the_text(size):
  tokens = (
    np.random.default_rng(size).integers(300, 9000, size).astype(np.int32)
  )
  for seed in range(30):
    inputs, targets = _corrupt(tokens, seed)
    noise, spans = objectives.noise_lengths(
      size, noise_density=0.15, mean_span=3.0
    )
    assert len(inputs) == size - noise + spans + 1
    assert len(targets) == noise + spans + 1
    assert inputs[-1] == targets[-1] == special.EOS_ID
    shown, hidden = _spans(inputs[:-1]), _spans(targets[:-1])
    # Text comes first: the first sentinel of the inputs hides the first span.
    sentinels = [FIRST - i for i in range(spans)]
    assert [name for name in shown if name] == sentinels
    assert [name for name in hidden if name] == sentinels
    text = list(shown[None])
    for name in sentinels:
      text += hidden[name] + shown[name]
    assert text == tokens.tolist()


def test_span_lengths_are_uniform_compositions():
  """P(k) = C(n-k-1, s-2) / C(n-1, s-1) of a span, in T5's too."""
  tokens = np.arange(1000, 1568, dtype=np.int32)
  counts = collections.Counter()
  for seed in range(600):
    _, targets = _corrupt(tokens, seed)
    spans = _spans(targets[:-1])
    counts.update(len(of) for name, of in spans.items() if name)
  total, (noise, spans) = counts.total(), (85, 28)
  for k in range(1, 9):
    p = math.comb(noise - k - 1, spans - 2) / math.comb(noise - 1, spans - 1)
    error = math.sqrt(p * (1 - p) / total)
    assert abs(counts[k] / total - p) < 4 * error


def test_rows_of_span_corruption_are_full():
  objective = objectives.span_corruption(
    inputs_length=512, noise_density=0.15, mean_span=3.0, first_sentinel=FIRST
  )
  assert objective.raw_length == 568
  tokens = np.full(568, 400, np.int32)
  row = objective.features(tokens, np.random.default_rng(0))
  assert row["encoder_input_tokens"].shape == (512,)
  assert row["decoder_target_tokens"].shape == (114,)
  assert np.all(row["encoder_input_tokens"]) and np.all(
    row["decoder_target_tokens"]
  )
  assert row["decoder_loss_weights"].sum() == 114
  np.testing.assert_array_equal(
    row["decoder_input_tokens"][1:], row["decoder_target_tokens"][:-1]
  )
  for side, length in (("encoder", 512), ("decoder", 114)):
    assert row[f"{side}_segment_ids"].tolist() == [1] * length
    assert row[f"{side}_positions"].tolist() == list(range(length))
  short = objective.features(tokens[:9], np.random.default_rng(0))
  weights = short["decoder_loss_weights"]
  np.testing.assert_array_equal(weights > 0, short["decoder_target_tokens"] > 0)
  for side, tokens in (("encoder", "input"), ("decoder", "target")):
    real = short[f"{side}_{tokens}_tokens"] > 0
    np.testing.assert_array_equal(short[f"{side}_segment_ids"], real)


def test_the_documents_of_a_corrupted_window_are_one_segment():
  """Mask of each row = real tokens, though an EOS lies inside it."""
  tokens = np.arange(300, 426, dtype=np.int32)
  tokens[[20, 60, 61]] = special.EOS_ID
  objective = objectives.span_corruption(
    inputs_length=114, noise_density=0.15, mean_span=3.0, first_sentinel=FIRST
  )
  row = objective.features(tokens, np.random.default_rng(0))
  assert set(row["encoder_segment_ids"]) == {1}
  both = [*row["encoder_input_tokens"], *row["decoder_target_tokens"]]
  assert both.count(special.EOS_ID) == 3 + 2


def test_a_prefix_row_learns_behind_the_prefix_only():
  objective = objectives.prefix(length=12)
  tokens = np.arange(300, 310, dtype=np.int32)
  cuts = set()
  for seed in range(60):
    row = objective.features(tokens, np.random.default_rng(seed))
    seen = int(row["decoder_causal_attention"].sum())
    cuts.add(seen)
    # The first target's position has the last token of the prefix as input.
    assert row["decoder_loss_weights"].tolist() == (
      [0] * (seen - 1) + [1] * (11 - seen) + [0, 0]
    )
    assert row["decoder_input_tokens"][1:10].tolist() == tokens[:9].tolist()
    assert set(row["decoder_segment_ids"][:10]) == {1}
  assert cuts == set(range(2, 11))


def test_documents_of_a_causal_row_are_segments():
  tokens = np.array([7, 8, 1, 9, 1, 5], np.int32)
  row = objectives.causal(length=8).features(tokens, None)
  assert {name: list(of) for name, of in row.items()} == {
    "decoder_target_tokens": [7, 8, 1, 9, 1, 5, 0, 0],
    "decoder_input_tokens": [0, 7, 8, 0, 9, 0, 0, 0],
    "decoder_loss_weights": [1, 1, 1, 1, 1, 1, 0, 0],
    "decoder_positions": [0, 1, 2, 0, 1, 0, 0, 0],
    "decoder_segment_ids": [1, 1, 1, 2, 2, 3, 0, 0],
  }


def test_sizes_that_cannot_work_are_refused():
  with pytest.raises(ValueError, match="too short"):
    objectives.span_corruption_lengths(2, noise_density=0.15, mean_span=3.0)
  with pytest.raises(ValueError, match="no room"):
    objectives.prefix(length=1)


def test_a_row_depends_on_its_generator_only():
  """The same generator seed gives the same row, however often."""
  objective = objectives.span_corruption(
    inputs_length=64, noise_density=0.5, mean_span=8.0, first_sentinel=FIRST
  )
  tokens = np.arange(300, 300 + objective.raw_length, dtype=np.int32)
  rows = [
    objective.features(tokens, np.random.default_rng((1, 2, 3)))
    for _ in range(2)
  ]
  for a, b in itertools.pairwise(rows):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_sentinels_of_rows_are_the_ids_that_the_objective_names():
  objective = objectives.span_corruption(
    inputs_length=64, noise_density=0.15, mean_span=3.0, first_sentinel=999
  )
  row = objective.features(
    np.full(objective.raw_length, 300, np.int32), np.random.default_rng(0)
  )
  inputs = row["encoder_input_tokens"]
  assert set(inputs[inputs > 300].tolist()) == set(objective.extra_ids)
  objectives.check_ids(
    objective, num_pieces=objective.extra_ids.start, vocab_size=1000
  )
  with pytest.raises(ValueError, match="behind the tokenizer's 999 pieces"):
    objectives.check_ids(objective, num_pieces=999, vocab_size=1000)
