"""New embedding rows against closed forms, brute force and hand-worked cases."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from mlm.tokenizers import initialization, load, static_vectors

WORDS = (
  "bread bridge хлеб река नदी पुल خبز نهر ዳቦ ወንዝ ฝน สวน პური ხიდი mkate shule"
).split()


@pytest.fixture(scope="module")
def processors(extension):
  return load.load(extension.base), load.load(extension.extended)


@pytest.fixture(scope="module")
def table(processors):
  rng = np.random.default_rng(0)
  return rng.normal(2, 3, (processors[0].get_piece_size(), 8)).astype(
    np.float32
  )


def _with_pieces(base, *pieces):
  """The base and, behind it, pieces of score -5."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    base.serialized_model_proto()
  )
  for piece in pieces:
    proto.pieces.add(piece=piece, score=-5)
  return sentencepiece.SentencePieceProcessor(
    model_proto=proto.SerializeToString()
  )


def _dense(weights):
  assert isinstance(weights, scipy.sparse.csr_array)
  return weights.toarray()


def test_mean_of_parts_is_the_mean_of_the_bases_pieces(processors, table):
  base, extended = processors
  weights = initialization.MeanOfParts()(base, extended)
  rows = weights @ table
  byte = {base.id_to_piece(i): i for i in range(base.get_piece_size())}
  checked = 0
  for row in range(len(rows)):
    piece = extended.id_to_piece(base.get_piece_size() + row)
    if piece.strip("\u2581") and ord(piece.strip("\u2581")[0]) > 0x0E00:
      # Thai, Georgian, Ethiopic: the base has their bytes only.
      parts = [byte[f"<0x{b:02X}>"] for b in piece.strip("\u2581").encode()]
      parts += [byte["\u2581"]] * piece.count("\u2581")
      np.testing.assert_allclose(rows[row], table[parts].mean(0), rtol=1e-5)
      checked += 1
  assert checked > 50
  np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_parts_are_those_of_the_text_not_of_a_text_with_a_space_before(
  processors,
):
  base, _ = processors
  extended = _with_pieces(base, "breadbridge", "\u2581breadbridge")
  inside, at_start = _dense(initialization.MeanOfParts()(base, extended))
  mark = base.piece_to_id("\u2581bread")
  assert mark > 0 and at_start[mark] > 0 and inside[mark] == 0
  start_ids = set(np.flatnonzero(at_start))
  assert "".join(map(base.id_to_piece, base.encode("breadbridge"))) == (
    "\u2581breadbridge"
  )
  assert start_ids == set(base.encode("breadbridge"))


def test_sparsemax_of_two_scores_is_the_clipped_line():
  """Martins & Astudillo 2016: for [t, 0] it is (t + 1) / 2 within [0, 1]."""
  t = np.linspace(-3, 3, 25)
  got = initialization.sparsemax(np.stack([t, np.zeros_like(t)], axis=1))
  want = np.clip((t + 1) / 2, 0, 1)
  np.testing.assert_allclose(got, np.stack([want, 1 - want], 1), atol=1e-12)


def test_sparsemax_is_the_nearest_point_of_the_simplex():
  """Against projections onto every face, the best feasible one."""
  rng = np.random.default_rng(0)
  scores = rng.normal(0, 0.7, (50, 5))
  for z, got in zip(scores, initialization.sparsemax(scores)):
    candidates = []
    for size in range(1, 6):
      for face in map(list, itertools.combinations(range(5), size)):
        point = np.zeros(5)
        point[face] = z[face] + (1 - z[face].sum()) / size
        if (point >= 0).all():
          candidates.append(point)
    nearest = min(candidates, key=lambda p: np.sum((p - z) ** 2))
    np.testing.assert_allclose(got, nearest, atol=1e-12)


def test_ofa_weights_by_hand():
  """Two pieces at right angles: softmax of 1 / 0.1 and 0 / 0.1."""
  got = initialization.weights_of_similar(
    new=np.array([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
    new_covered=np.array([True, False, True]),
    old=np.array([[0.5, 0.0], [9.0, 9.0], [0.0, 2.0]]),
    old_covered=np.array([True, False, True]),
    weigh=initialization.nearest_softmax,
  )
  high = np.exp(10) / (np.exp(10) + 1)
  want = [[high, 0, 1 - high], [0, 0, 0], [0.5, 0, 0.5]]
  np.testing.assert_allclose(_dense(got), want, rtol=1e-9)


def test_only_the_ten_nearest_count():
  cosines = np.linspace(-1, 1, 25)[None].repeat(3, axis=0)
  cosines[1] = cosines[1][::-1]
  got = initialization.nearest_softmax(cosines)
  want = scipy.special.softmax(cosines[0, 15:] / 0.1)
  np.testing.assert_allclose(got[0], [*np.zeros(15), *want])
  np.testing.assert_allclose(got[1], [*want[::-1], *np.zeros(15)])


def test_ofa_takes_the_nearest_piece_of_the_word_space(processors, tmp_path):
  """ዳቦ and хлеб share a vector; ወንዝ shares that of नदी."""
  base, extended = processors
  vectors = np.eye(len(WORDS), dtype=np.float32)
  place = {word: i for i, word in enumerate(WORDS)}
  vectors[place["ዳቦ"]] = vectors[place["хлеб"]]
  vectors[place["ወንዝ"]] = vectors[place["नदी"]]
  path = str(tmp_path / "words.vec")
  static_vectors.write_word_vectors(path, WORDS, vectors)
  read_words, read = static_vectors.read_word_vectors(path)
  assert read_words == WORDS
  np.testing.assert_array_equal(read, vectors)
  weights = _dense(initialization.Ofa(path)(base, extended))
  for new, old in (("\u2581ዳቦ", "\u2581хлеб"), ("\u2581ወንዝ", "\u2581नदी")):
    row = extended.piece_to_id(new) - base.get_piece_size()
    assert row >= 0
    nearest = {
      base.id_to_piece(i) for i in np.flatnonzero(weights[row] > 0.05).tolist()
    }
    assert old in nearest
    assert not nearest & {"\u2581bread", "\u2581река", "\u2581خبز"}
  sums = weights.sum(axis=1)
  assert set(np.round(sums, 6)) == {0.0, 1.0}  # some pieces have no word


def test_ofa_copies_the_piece_of_another_case(processors, tmp_path):
  base, _ = processors
  extended = _with_pieces(base, "\u2581BREAD", "\u2581Хлеб", "ზზ")
  path = str(tmp_path / "words.vec")
  static_vectors.write_word_vectors(path, ["река"], np.ones((1, 2)))
  weights = _dense(initialization.Ofa(path)(base, extended))
  for row, piece in enumerate(("\u2581bread", "\u2581хлеб")):
    want = np.zeros(base.get_piece_size())
    want[base.piece_to_id(piece)] = 1
    np.testing.assert_array_equal(weights[row], want)
  assert not weights[2].any()


def test_subword_vectors_are_averages_over_words(processors):
  base, _ = processors
  vectors = np.arange(2 * len(WORDS), dtype=np.float32).reshape(-1, 2)
  got, covered = static_vectors.subword_vectors(WORDS, vectors, base)
  holders = {}
  for word, vector in zip(WORDS, vectors):
    ids = set()
    for text in (word, word.capitalize()):
      ids.update(base.encode(text))  # the tokenizer adds the space
    inside = base.encode(f"\n{word}")  # behind a line break there is none
    assert base.id_to_piece(inside[1]) == "<0x0A>"
    for i in ids | set(inside[2:]):
      holders.setdefault(i, []).append(vector)
  assert set(np.flatnonzero(covered)) == holders.keys()
  for i, found in holders.items():
    np.testing.assert_allclose(got[i], np.mean(found, axis=0), rtol=1e-5)
  assert not got[~covered].any()


def test_ppmi_vectors_at_full_rank_are_the_matrix():
  """V V^T = U S U^T of the dense matrix, counted pair by pair."""
  rng = np.random.default_rng(0)
  texts = [rng.integers(0, 8, 30) for _ in range(20)]
  window = 2
  counts = np.zeros((8, 8))
  for text in texts:
    for i, j in itertools.permutations(range(30), 2):
      counts[text[i], text[j]] += abs(i - j) <= window
  p, context = counts / counts.sum(), counts.sum(0) ** 0.75
  pmi = np.log(p / np.outer(p.sum(1), context / context.sum()))
  ppmi = np.maximum(pmi, 0)
  left, singular, _ = np.linalg.svd(ppmi)
  want = (left[:, :7] * singular[:7]) @ left[:, :7].T
  got, has = static_vectors.train_vectors(
    texts, vocab_size=10, dimension=7, window=window, min_count=1, seed=0
  )
  assert has.tolist() == [True] * 8 + [False] * 2
  np.testing.assert_allclose(got[:8] @ got[:8].T, want, atol=1e-5)
  assert not got[8:].any()


def test_rare_tokens_get_no_vector():
  texts = [[0, 1, 2, 3] * 5, [0, 1, 2, 3, 4]]
  _, has = static_vectors.train_vectors(
    texts, vocab_size=6, dimension=2, window=2, min_count=2, seed=0
  )
  assert has.tolist() == [True] * 4 + [False] * 2
  with pytest.raises(ValueError, match="4 tokens occur 2 times or more"):
    static_vectors.train_vectors(
      texts, vocab_size=6, dimension=4, window=2, min_count=2, seed=0
    )


def test_a_token_is_mixed_from_those_in_the_same_company():
  """Of the old ids 0 to 8, 4 stands where the new 9 does."""
  rng = np.random.default_rng(0)
  near = {4: (0, 1), 9: (0, 1), 5: (2, 3), 6: (7, 8)}
  texts = [
    [x for _ in range(8) for x in (*rng.permutation(near[i]), i)]
    for i in rng.choice(list(near), 200)
  ]
  vectors, has = static_vectors.train_vectors(
    texts, vocab_size=10, dimension=5, window=2, min_count=5, seed=0
  )
  assert has.all()
  weights = initialization.weights_of_similar(
    vectors[9:], has[9:], vectors[:9], has[:9], weigh=initialization.sparsemax
  ).toarray()
  assert weights[0].argmax() == 4 and weights[0, 4] > 0.3
  assert not weights[0, [2, 3, 5, 6, 7, 8]].any()


def test_focus_covers_what_is_frequent_and_repeats(extension, processors):
  base, extended = processors
  method = initialization.Focus(
    corpus=extension.all,
    temperature=1.0,
    budget_characters=100_000,
    dimension=30,
    window=3,
    min_count=5,
    seed=0,
  )
  weights = method(base, extended)
  sums = weights.sum(axis=1)
  assert set(np.round(sums, 5)) == {0.0, 1.0}
  assert (sums > 0.5).mean() > 0.3
  again = method(base, extended)
  np.testing.assert_array_equal(_dense(weights), _dense(again))


def test_drawn_rows_have_the_tables_mean_and_deviation(processors, table):
  base, _ = processors
  weights = scipy.sparse.csr_array((20_000, len(table)))
  got = initialization.extended_table(
    table, weights, vocab_size=len(table) + 20_000, seed=1
  )
  new = got[len(table) :]
  np.testing.assert_allclose(new.mean(0), table.mean(0), atol=0.15)
  np.testing.assert_allclose(new.std(0), table.std(0), rtol=0.05)
  other = initialization.extended_table(
    table, weights, vocab_size=len(got), seed=2
  )
  assert not np.array_equal(got, other)


def test_a_method_changes_only_the_rows_it_knows(table):
  rows = np.zeros((3, len(table)))
  rows[1, [5, 9]] = 0.25, 0.75
  known = initialization.extended_table(
    table, scipy.sparse.csr_array(rows), vocab_size=len(table) + 3, seed=0
  )
  drawn = initialization.extended_table(
    table, scipy.sparse.csr_array(rows.shape), vocab_size=len(known), seed=0
  )
  assert known.dtype == table.dtype
  np.testing.assert_array_equal(known[:-3], table)
  np.testing.assert_array_equal(known[[-3, -1]], drawn[[-3, -1]])
  np.testing.assert_allclose(
    known[-2], 0.25 * table[5] + 0.75 * table[9], rtol=1e-6
  )


def test_padding_never_takes_more_than_an_average_piece(table):
  weights = scipy.sparse.csr_array((2, len(table)))
  got = initialization.extended_table(
    table, weights, vocab_size=len(table) + 9, seed=0
  )
  assert len(got) == len(table) + 9
  np.testing.assert_allclose(
    got[-7:], np.tile(table.mean(0), (7, 1)), rtol=1e-5
  )
  hidden = np.random.default_rng(0).normal(0, 3, (100, table.shape[1]))
  logits = hidden @ got.T
  average = np.exp(logits[:, : len(table)]).mean(axis=1)
  assert (np.exp(logits[:, -1]) <= average * (1 + 1e-5)).all()


def test_tables_that_do_not_fit_are_refused(table):
  weights = scipy.sparse.csr_array((2, len(table)))
  for rows, size in ((table[1:], len(table) + 2), (table, len(table) + 1)):
    with pytest.raises(ValueError, match="do not give"):
      initialization.extended_table(rows, weights, vocab_size=size, seed=0)


def test_factors_at_full_rank_are_the_table(table):
  factors = initialization.factorize(table, rank=table.shape[1])
  np.testing.assert_allclose(
    factors.coordinates @ factors.primitives, table, atol=1e-4
  )
  assert factors.num_saved == -(table.shape[1] ** 2)
  # The best rank-2 approximation leaves the other singular values.
  factors = initialization.factorize(table, rank=2)
  left = table - factors.coordinates @ factors.primitives
  want = np.linalg.svd(table, compute_uv=False)[2:]
  assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(want), rel=1e-4)
  num_rows, width = table.shape
  assert factors.num_saved == num_rows * width - num_rows * 2 - 2 * width
  for rank in (0, width + 1):
    with pytest.raises(ValueError, match="must be between 1 and 8"):
      initialization.factorize(table, rank=rank)


def test_mixing_coordinates_is_mixing_rows(processors, table):
  weights = initialization.MeanOfParts()(*processors)
  factors = initialization.factorize(table, rank=table.shape[1])
  np.testing.assert_allclose(
    (weights @ factors.coordinates) @ factors.primitives,
    weights @ table,
    atol=1e-4,
  )


def test_broken_word_vectors_are_named(tmp_path):
  path = tmp_path / "words.vec"
  for text, told in (
    ("bread 0.5 0.5\n", "line 1: need 'words dimension'"),
    ("2 2\nbread 0.5 0.5\n", "ends after 1 of its 2"),
    ("1 2\nbread 0.5\n", "line 2: need 2 values"),
    ("1 2\na 1 2\nb 1 2\n", "line 3"),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
      static_vectors.read_word_vectors(str(path))
  with pytest.raises(ValueError, match="no piece of the base"):
    initialization.weights_of_similar(
      new=np.ones((1, 2)),
      new_covered=np.array([True]),
      old=np.ones((1, 2)),
      old_covered=np.array([False]),
      weigh=initialization.sparsemax,
    )
