"""Budgeted vocabularies: arithmetic by hand, clusters that are obvious, a model."""

import functools
import math
import random

import pytest
import sentencepiece

from mlm.tokenizers import budget, special, train

SYLLABLES = {
  # Two made-up languages share syllables in each of three scripts.
  "a": ("ka", "lo", "mi", "ru", "te"),
  "b": ("ka", "lo", "mi", "ru", "so"),
  "c": ("ба", "ге", "ди", "жо", "зу"),
  "d": ("ба", "ге", "ди", "жо", "лы"),
  "e": ("กา", "มี", "ดู", "นา", "ปู"),
  "f": ("กา", "มี", "ดู", "นา", "รู"),
}


def _lines(code):
  rng = random.Random(code)
  words = ["".join(rng.choices(SYLLABLES[code], k=3)) for _ in range(60)]
  return [" ".join(rng.choices(words, k=8)) for _ in range(300)]


LINES = {
  code: functools.partial(lambda c: iter(_lines(c)), code) for code in SYLLABLES
}


def TRAIN(codes, vocab_size):
  lines = (line for code in codes for line in LINES[code]())
  return train.train_on_lines(
    lines,
    vocab_size=vocab_size,
    character_coverage=1.0,
    num_threads=1,
    characters=0,
  )


def test_capacity_goes_where_the_gain_a_piece_is_largest():
  steps = (10, 20, 40)
  # Gains a piece, relative: x 0.05 then 0.005; y 0.01 then 0.01.
  alps = {"x": [-100, -50, -40], "y": [-100, -90, -70], "z": [-100]}
  allocate = functools.partial(budget.allocate, alps, steps)
  assert allocate(budget=30) == {"x": 10, "y": 10, "z": 10}
  assert allocate(budget=40) == {"x": 20, "y": 10, "z": 10}
  assert allocate(budget=70) == {"x": 20, "y": 40, "z": 10}
  assert allocate(budget=10_000) == {"x": 40, "y": 40, "z": 10}
  with pytest.raises(ValueError, match="raise vocab_size"):
    allocate(budget=29)


def test_a_bend_does_not_hide_a_later_gain():
  assert budget.allocate({"x": [-100, -99, -10]}, (1, 2, 3), budget=3) == {
    "x": 3
  }


def test_alp_by_hand():
  """Four pieces, three of one kind: 3 ln ¾ + ln ¼ over two lines."""
  model = budget.with_pieces(TRAIN(["a"], 300), {"▁": -1.0, "x": -2.0})
  assert budget.average_log_probability(model, iter(["x", "x"])) == (
    pytest.approx((2 * math.log(0.5) + 2 * math.log(0.5)) / 2)
  )


def test_languages_that_share_pieces_are_a_cluster():
  models = {code: TRAIN([code], 400) for code in LINES}
  vocabularies = {c: budget._pieces(model) for c, model in models.items()}
  found = budget.clusters(vocabularies, num_clusters=3, seed=0)
  assert found == [["a", "b"], ["c", "d"], ["e", "f"]]
  many = budget.clusters(vocabularies, num_clusters=9, seed=0)
  assert sorted(sum(many, [])) == sorted(LINES)


def test_cut_models_keep_characters_and_the_likeliest():
  pieces = budget._pieces(TRAIN(["a"], 400))
  cut = budget._likeliest(pieces, 40)
  characters = {p for p in pieces if len(p) == 1}
  assert characters <= cut.keys() and len(cut) == len(characters) + 40
  dropped = [pieces[p] for p in pieces.keys() - cut.keys()]
  assert max(dropped) <= min(s for p, s in cut.items() if len(p) > 1)


def test_the_union_is_one_lossless_model_with_our_ids():
  method = budget.Budgeted(
    num_clusters=3, language_pieces=100, steps=(20, 40, 80), seed=0
  )
  model, division = budget.train_budgeted(
    LINES, vocab_size=261 + 240, method=method, train_model=TRAIN
  )
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert processor.get_piece_size() <= 261 + 240
  assert processor.get_piece_size() > 261 + 120
  assert processor.id_to_piece(special.FIRST_BYTE_ID) == "<0x00>"
  assert processor.id_to_piece(special.ASSISTANT_ID) == special.ASSISTANT_PIECE
  for code in LINES:
    for line in _lines(code)[:20]:
      ids = processor.encode(line)
      assert processor.decode(ids) == line
      assert not any(map(special.is_byte, ids))
  for text in ("漢字 \n x", "<|user|>", "a\u200cb"):
    assert processor.decode(processor.encode(text)) == text
  assert sorted(sum(division["clusters"], [])) == sorted(LINES)
  assert set(division["capacity"].values()) <= {20, 40, 80}
  again, _ = budget.train_budgeted(
    LINES, vocab_size=261 + 240, method=method, train_model=TRAIN
  )
  assert again == model


def test_steps_must_rise():
  method = budget.Budgeted(
    num_clusters=1, language_pieces=10, steps=(20, 10), seed=0
  )
  with pytest.raises(ValueError, match="must rise"):
    budget.train_budgeted({}, vocab_size=500, method=method, train_model=TRAIN)
