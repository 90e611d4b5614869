"""Embedding rows for the pieces that an extension adds to a tokenizer.

Every method says how a new row is mixed from the base's rows: weights [N, V]
with a row a new piece, which sums to one, or is empty where the method knows
nothing of the piece. `extended_table` applies them; an empty row is drawn from
the normal distribution with the table's mean and standard deviation in each
dimension. Input and output tables are so made from the same weights, each from
its own rows.

Letters: N new pieces, V pieces of the base, D model width, d width of static
vectors, k rank.

Sources: Liu et al. 2024 (OFA); Dobler & de Melo 2023 (FOCUS); Martins &
Astudillo 2016 (sparsemax). Deviations: see `static_vectors`; all of the base's
pieces are shared, as in any extension, where both papers replace a vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
import sentencepiece

from mlm.languages import samplers
from mlm.text import documents
from mlm.tokenizers import sample, static_vectors

_Processor = sentencepiece.SentencePieceProcessor
# (base, its extension) -> weights [N, V].
Initialization = Callable[[_Processor, _Processor], scipy.sparse.csr_array]

_NUM_NEAREST = 10  # OFA
_SOFTMAX_TEMPERATURE = 0.1  # OFA
_ROWS_PER_BLOCK = 128  # of similarities to all of the base


def _num_new(base: _Processor, extended: _Processor) -> int:
  return extended.get_piece_size() - base.get_piece_size()


def _new_pieces(base: _Processor, extended: _Processor) -> list[str]:
  return [
    extended.id_to_piece(i)
    for i in range(base.get_piece_size(), extended.get_piece_size())
  ]


@dataclasses.dataclass(frozen=True)
class Random:
  """Every new row is drawn: what the other methods have to beat."""

  def __call__(self, base: _Processor, extended: _Processor):
    shape = (_num_new(base, extended), base.get_piece_size())
    return scipy.sparse.csr_array(shape)


@dataclasses.dataclass(frozen=True)
class MeanOfParts:
  """The mean of the rows of the pieces, or bytes, that the base has for it."""

  def __call__(self, base: _Processor, extended: _Processor):
    texts = [p.replace("\u2581", " ") for p in _new_pieces(base, extended)]
    parts = static_vectors.without_dummy_prefix(base).encode(texts)
    sizes = np.array([len(ids) for ids in parts])
    return scipy.sparse.csr_array(
      (
        np.repeat(1 / sizes, sizes),
        (np.repeat(np.arange(len(parts)), sizes), np.concatenate(parts)),
      ),
      shape=(len(parts), base.get_piece_size()),
    )


@dataclasses.dataclass(frozen=True)
class Ofa:
  """From the nearest pieces in a space of multilingual word vectors.

  A piece of the base with the same letters in another case is copied; else the
  10 nearest by cosine are mixed by softmax(cosine / 0.1). Pieces that no word
  holds are drawn.

  Attributes:
    word_vectors: file of `static_vectors.read_word_vectors`, with words of the
      base's languages and the new ones in one space.
  """

  word_vectors: str

  def __call__(self, base: _Processor, extended: _Processor):
    size = base.get_piece_size()
    words, vectors = static_vectors.read_word_vectors(self.word_vectors)
    old, old_covered = static_vectors.subword_vectors(words, vectors, base)
    new, covered = static_vectors.subword_vectors(words, vectors, extended)
    weights = weights_of_similar(
      new[size:],
      covered[size:],
      old,
      old_covered,
      weigh=nearest_softmax,
    ).tolil()
    same_letters = {}
    for i in range(size):
      same_letters.setdefault(base.id_to_piece(i).lower(), i)
    for row, piece in enumerate(_new_pieces(base, extended)):
      if (i := same_letters.get(piece.lower())) is not None:
        weights.rows[row], weights.data[row] = [i], [1.0]
    return weights.tocsr()


@dataclasses.dataclass(frozen=True)
class Focus:
  """From the pieces that are used alike in text of the extended tokenizer.

  Sparsemax of the cosine to every piece of the base, in vectors trained on
  text of all languages as the extended tokenizer cuts it. Pieces rarer than
  min_count are drawn.

  Attributes:
    corpus: finished corpus directory with old and new languages.
    temperature: T of p ∝ n^(1/T) over characters.
    budget_characters: characters to train the vectors on.
    dimension: d.
    window: tokens to each side that count as near.
    min_count: of a piece in the text.
    seed: of the text and the vectors.
  """

  corpus: str
  temperature: float
  budget_characters: int
  dimension: int
  window: int
  min_count: int
  seed: int

  def __call__(self, base: _Processor, extended: _Processor):
    plan = sample.plan_sample(
      documents.read_counts(self.corpus),
      sampler=samplers.by_temperature(
        temperature=self.temperature, unit="characters", max_epochs=1
      ),
      budget_characters=self.budget_characters,
    )
    lines = sample.sample_lines(self.corpus, plan, seed=self.seed)
    vectors, covered = static_vectors.train_vectors(
      map(extended.encode, lines),
      vocab_size=extended.get_piece_size(),
      dimension=self.dimension,
      window=self.window,
      min_count=self.min_count,
      seed=self.seed,
    )
    size = base.get_piece_size()
    return weights_of_similar(
      vectors[size:],
      covered[size:],
      vectors[:size],
      covered[:size],
      weigh=sparsemax,
    )


def weights_of_similar(
  new: np.ndarray,
  new_covered: np.ndarray,
  old: np.ndarray,
  old_covered: np.ndarray,
  *,
  weigh: Callable[[np.ndarray], np.ndarray],
) -> scipy.sparse.csr_array:
  """Weights of old pieces for new ones, from their cosines.

  Args:
    new: [N, d] vectors of new pieces.
    new_covered: bool [N], which have one; the others' rows stay empty.
    old: [V, d] vectors of the base's pieces.
    old_covered: bool [V].
    weigh: cosines [n, m] -> weights [n, m], rows sum to one.

  Returns:
    [N, V].

  Raises:
    ValueError: if no piece of the base has a vector.
  """
  (columns,), (rows,) = np.nonzero(old_covered), np.nonzero(new_covered)
  if not len(columns):
    raise ValueError(
      "no piece of the base tokenizer has a static vector; give vectors or "
      "text of the base's languages too"
    )
  old, new = _normalized(old[columns]), _normalized(new[rows])
  blocks = [
    scipy.sparse.csr_array(weigh(new[i : i + _ROWS_PER_BLOCK] @ old.T))
    for i in range(0, len(rows), _ROWS_PER_BLOCK)
  ]
  shape = (len(new_covered), len(old_covered))
  if not blocks:
    return scipy.sparse.csr_array(shape)
  found = scipy.sparse.vstack(blocks).tocoo()
  row, column = found.coords
  return scipy.sparse.csr_array(
    (found.data, (rows[row], columns[column])), shape=shape
  )


def _normalized(vectors: np.ndarray) -> np.ndarray:
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)


def nearest_softmax(cosines: np.ndarray) -> np.ndarray:
  """softmax(cosine / 0.1) over the 10 largest of each row, else 0; [n, m]."""
  num_nearest = min(_NUM_NEAREST, cosines.shape[1])
  nearest = np.argpartition(-cosines, num_nearest - 1, axis=1)[:, :num_nearest]
  weights = np.zeros_like(cosines)
  kept = np.take_along_axis(cosines, nearest, axis=1) / _SOFTMAX_TEMPERATURE
  np.put_along_axis(
    weights, nearest, scipy.special.softmax(kept, axis=1), axis=1
  )
  return weights


def sparsemax(scores: np.ndarray) -> np.ndarray:
  """The nearest point of the probability simplex to each row of scores [n, m].

  Source: Martins & Astudillo 2016, algorithm 1.
  """
  ordered = -np.sort(-scores, axis=1)
  excess = np.cumsum(ordered, axis=1) - 1
  counts = np.arange(1, scores.shape[1] + 1)
  support = np.sum(ordered * counts > excess, axis=1, keepdims=True)
  threshold = np.take_along_axis(excess, support - 1, axis=1) / support
  return np.maximum(scores - threshold, 0)


def extended_table(
  table: np.ndarray,
  weights: scipy.sparse.csr_array,
  *,
  vocab_size: int,
  seed: int,
) -> np.ndarray:
  """The table with rows for new pieces, then padding to the vocabulary size.

  Padding rows, which no text reaches, lie at the table's mean: then each takes
  at most the average probability of an old piece, whatever the hidden state,
  since the exponential of a mean is at most the mean of exponentials.

  Args:
    table: [V, D] rows of the base's pieces, kept as they are.
    weights: [N, V] of an `Initialization`.
    vocab_size: rows of the result, at least V + N.
    seed: of the rows that are drawn.

  Returns:
    [vocab_size, D], of the table's dtype.

  Raises:
    ValueError: if the shapes do not fit.
  """
  num_new, num_old = weights.shape
  if len(table) != num_old or vocab_size < num_old + num_new:
    raise ValueError(
      f"a table of {len(table)} rows and weights of {weights.shape} do not give "
      f"{vocab_size} rows; give the rows of the base's {num_old} pieces and at "
      f"least {num_old + num_new} rows to fill"
    )
  mean, deviation = table.mean(axis=0), table.std(axis=0)
  drawn = np.random.default_rng(seed).normal(
    mean, deviation, (num_new, table.shape[1])
  )
  is_empty = np.diff(weights.indptr) == 0
  new = np.where(is_empty[:, None], drawn, weights @ table)
  padding = np.tile(mean, (vocab_size - num_old - num_new, 1))
  return np.concatenate([table, new, padding]).astype(table.dtype)


class Factors(NamedTuple):
  """A table as coordinates [V, k] times primitives [k, D].

  `num_saved` is the number of parameters less than in the table; negative if
  the rank is too high to save any.
  """

  coordinates: np.ndarray
  primitives: np.ndarray
  num_saved: int


def factorize(table: np.ndarray, *, rank: int) -> Factors:
  """The best approximation of a table [V, D] of a rank k, as two factors.

  Weights of an `Initialization` may be applied to the coordinates instead of
  the table: mixing rows and multiplying by the primitives commute.

  Args:
    table: [V, D].
    rank: k, in [1, min(V, D)].

  Raises:
    ValueError: if the rank is out of range.

  Source: Liu et al. 2024 (OFA): coordinates U, primitives diag(s) W^T.
  """
  if not 1 <= rank <= min(table.shape):
    raise ValueError(
      f"rank {rank} must be between 1 and {min(table.shape)}, the smaller side "
      "of the table"
    )
  left, singular, right = np.linalg.svd(table, full_matrices=False)
  coordinates = left[:, :rank]
  primitives = singular[:rank, None] * right[:rank]
  saved = table.size - coordinates.size - primitives.size
  return Factors(coordinates, primitives, saved)
