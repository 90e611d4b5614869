"""Static vectors of tokens and words, from co-occurrence or from a file.

Vectors are trained by the truncated SVD of a matrix of positive pointwise
mutual information, which needs scipy only and is exact and repeatable.
Deviation: OFA reads ColexNet+ vectors and FOCUS trains fastText; skip-gram with
negative sampling factorises a shifted form of the same matrix (Levy & Goldberg
2014), but here no vector is shared over character n-grams, as in fastText.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

# Levy, Goldberg & Dagan 2015: smoothed contexts (section 3.2), and singular
# values to the half (section 3.3).
_CONTEXT_POWER = 0.75
_SINGULAR_POWER = 0.5


def train_vectors(
  sequences: Iterable[Sequence[int]],
  *,
  vocab_size: int,
  dimension: int,
  window: int,
  min_count: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Vectors of ids that occur near the same ids.

  PPMI(a, b) = max(0, log(p(a, b) / (p(a) q(b)))), with p counted on pairs at
  most `window` apart and q ∝ count^0.75; vectors are the left singular vectors
  times the roots of the singular values.

  Args:
    sequences: ids of each text; pairs do not cross texts.
    vocab_size: V, ids there are.
    dimension: d, of the vectors; less than the number of ids that get one.
    window: largest distance of a pair, in ids, >= 1.
    min_count: rarer ids get no vector and are no context.
    seed: of the start of the SVD's iterations.

  Returns:
    (float32 [V, d], zero where there is no vector; bool [V], where there is).

  Raises:
    ValueError: if fewer than dimension + 1 ids occur often enough.

  Source: Levy & Goldberg 2014; Levy, Goldberg & Dagan 2015.
  """
  gap = np.full(window, -1, np.int64)
  parts = [x for ids in sequences for x in (np.asarray(ids, np.int64), gap)]
  stream = np.concatenate([gap, *parts])
  frequent = np.bincount(stream[stream >= 0], minlength=vocab_size) >= min_count
  num_frequent = int(frequent.sum())
  if num_frequent <= dimension:
    raise ValueError(
      f"{num_frequent} tokens occur {min_count} times or more, too few for "
      f"vectors of dimension {dimension}; give more text, or lower min_count or "
      "the dimension"
    )
  # The last place of the array stands for the gap, id -1.
  number = np.append(np.where(frequent, np.cumsum(frequent) - 1, -1), -1)
  stream = number[stream]
  counts = scipy.sparse.csr_array((num_frequent, num_frequent))
  for distance in range(1, window + 1):
    pairs = np.stack([stream[:-distance], stream[distance:]])
    pairs = pairs[:, (pairs >= 0).all(axis=0)]
    ones = np.ones(pairs.shape[1])
    counts += scipy.sparse.coo_array((ones, pairs), shape=counts.shape)
  matrix = _ppmi(counts + counts.T)
  start = np.random.default_rng(seed).normal(size=num_frequent)
  left, singular, _ = scipy.sparse.linalg.svds(matrix, k=dimension, v0=start)
  vectors = np.zeros((vocab_size, dimension), np.float32)
  vectors[frequent] = left * singular**_SINGULAR_POWER
  has_vector = frequent.copy()
  has_vector[frequent] = np.diff(matrix.indptr) > 0
  vectors[~has_vector] = 0
  return vectors, has_vector


def _ppmi(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  totals = np.asarray(counts.sum(axis=1), np.float64)
  contexts = totals**_CONTEXT_POWER
  pairs = counts.tocoo()
  row, column = pairs.coords
  # log (n_ab / n) / ((n_a / n) q_b); n, the number of pairs, cancels.
  values = np.log(
    pairs.data * contexts.sum() / (totals[row] * contexts[column])
  )
  positive = values > 0
  return scipy.sparse.csr_array(
    (values[positive], (row[positive], column[positive])), shape=counts.shape
  )


def write_word_vectors(
  path: str, words: Sequence[str], vectors: np.ndarray
) -> None:
  """Writes the text format of word2vec and fastText (`.vec`)."""
  with open(path, "w", encoding="utf-8") as f:
    f.write(f"{len(words)} {vectors.shape[1]}\n")
    for word, vector in zip(words, vectors, strict=True):
      f.write(f"{word} {' '.join(format(x, '.6g') for x in vector)}\n")


def read_word_vectors(path: str) -> tuple[list[str], np.ndarray]:
  """Reads word vectors in the text format of word2vec and fastText.

  Args:
    path: file with a line "words dimension", then "word x1 x2 …" a line.

  Returns:
    (words, float32 [W, d]).

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a line has another number of values than the first says, or
      lines are missing.
  """
  words = []
  with open(path, encoding="utf-8", newline="\n") as f:
    header = f.readline().split()
    if len(header) != 2 or not all(x.isdigit() for x in header):
      raise ValueError(
        f"{path}, line 1: need 'words dimension', got {' '.join(header)[:80]!r}; "
        "give vectors in the text format of word2vec or fastText"
      )
    num_words, dimension = map(int, header)
    vectors = np.zeros((num_words, dimension), np.float32)
    for line in f:
      # From the right: some words of fastText's files hold odd spaces.
      word, *values = line.rstrip().rsplit(" ", dimension)
      if len(values) != dimension or len(words) == num_words:
        raise ValueError(
          f"{path}, line {len(words) + 2}: need {dimension} values a line and "
          f"{num_words} lines in all; copy the file again"
        )
      vectors[len(words)] = values
      words.append(word)
  if len(words) < num_words:
    raise ValueError(
      f"{path} ends after {len(words)} of its {num_words} words; copy it again"
    )
  return words, vectors


def without_dummy_prefix(
  processor: sentencepiece.SentencePieceProcessor,
) -> sentencepiece.SentencePieceProcessor:
  """The tokenizer that puts no space before a text that has none."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    processor.serialized_model_proto()
  )
  proto.normalizer_spec.add_dummy_prefix = False
  return sentencepiece.SentencePieceProcessor(
    model_proto=proto.SerializeToString()
  )


def subword_vectors(
  words: Sequence[str],
  vectors: np.ndarray,
  processor: sentencepiece.SentencePieceProcessor,
) -> tuple[np.ndarray, np.ndarray]:
  """Vectors of pieces: plain averages over the words that they occur in.

  A word is tokenized inside a word, at the start of one, and there with a
  capital; it counts once for each piece of any of the three.

  Args:
    words: W words.
    vectors: [W, d].
    processor: tokenizer of V pieces.

  Returns:
    (float32 [V, d], zero where there is no word; bool [V], where there is).

  Source: Liu et al. 2024 (OFA).
  """
  encode = without_dummy_prefix(processor).encode
  rows, columns = [], []
  for number, word in enumerate(words):
    forms = encode([word, f" {word}", f" {word.capitalize()}"])
    pieces = {i for ids in forms for i in ids}
    rows.extend(pieces)
    columns.extend([number] * len(pieces))
  occurs = scipy.sparse.csr_array(
    (np.ones(len(rows), np.float32), (rows, columns)),
    shape=(processor.get_piece_size(), len(words)),
  )
  num_words = np.diff(occurs.indptr)
  sums = occurs @ vectors.astype(np.float32)
  return sums / np.maximum(num_words, 1)[:, None], num_words > 0
