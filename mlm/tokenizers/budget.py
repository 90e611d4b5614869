"""A vocabulary with a budget for each cluster of languages (XLM-V).

1. A unigram model of each language.
2. Capacity: pieces go, step by step, where they raise the language's average
   log probability (ALP) most.
3. Clusters: languages whose models share pieces.
4. A model of each cluster, with the capacities of its languages.
5. The union, with scores counted anew on all text, as one SentencePiece model.

Sources: Liang et al. 2023 (XLM-V), section 3; Zheng et al. 2021 (VoCap) for ALP;
Chung et al. 2020 for clusters. Deviations: gains of ALP are taken relative to
the ALP of the language's smallest vocabulary, since lines of other languages
have other lengths; smaller vocabularies of a language are its largest one cut
by score, not trained anew; a fingerprint has the square roots of the pieces'
probabilities, so that a few English pages do not make a language English's kin.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import sentencepiece
import tqdm
from scipy.cluster import vq
from sentencepiece import sentencepiece_model_pb2

from mlm.tokenizers import special

Lines = Callable[[], Iterator[str]]
# (languages, pieces wanted) -> serialized SentencePiece model of their lines.
TrainModel = Callable[[Sequence[str], int], bytes]

_NORMAL = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL
_NUM_FIXED = special.FIRST_BYTE_ID + 256
_EM_ROUNDS = 2
_LINES_PER_CALL = 1000
_KMEANS_STARTS, _KMEANS_ITERATIONS = 20, 50
_MAX_GROWTHS = 4  # attempts to make the union as large as wanted


@dataclasses.dataclass(frozen=True)
class Budgeted:
  """How a budget is divided.

  Attributes:
    num_clusters: k; XLM-V takes 8.
    language_pieces: of the model of one language.
    steps: numbers of pieces longer than a character, rising, that a language
      may get. Characters come first and are not counted: a language cannot do
      without, and Han and Hangul would use up any budget.
    seed: of the clusters.
  """

  num_clusters: int
  language_pieces: int
  steps: tuple[int, ...]
  seed: int


def _pieces(model: bytes) -> dict[str, float]:
  """Pieces that are neither special nor bytes, and their log probabilities."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  return {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}


def _likeliest(
  pieces: Mapping[str, float], num_longer: int
) -> dict[str, float]:
  """All characters, and so many of the longer pieces, by probability."""
  order = sorted(pieces.items(), key=lambda x: (-x[1], x[0]))
  longer = [x for x in order if len(x[0]) > 1]
  characters = [x for x in order if len(x[0]) == 1]
  return dict(characters + longer[:num_longer])


def with_pieces(model: bytes, pieces: Mapping[str, float]) -> bytes:
  """The model with other normal pieces, the likeliest first."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  fixed = [p for p in proto.pieces if p.type != _NORMAL]
  del proto.pieces[:]
  proto.pieces.extend(fixed)
  for piece, score in sorted(pieces.items(), key=lambda x: (-x[1], x[0])):
    proto.pieces.add(piece=piece, score=score, type=_NORMAL)
  proto.trainer_spec.vocab_size = len(proto.pieces)
  return proto.SerializeToString()


def _counts(model: bytes, lines: Iterator[str]) -> tuple[np.ndarray, int]:
  """(tokens of each id, lines)."""
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  counts = np.zeros(processor.get_piece_size(), np.int64)
  num_lines = 0
  while batch := list(itertools.islice(lines, _LINES_PER_CALL)):
    num_lines += len(batch)
    ids = np.fromiter(
      itertools.chain.from_iterable(processor.encode(batch)), np.int64
    )
    counts += np.bincount(ids, minlength=len(counts))
  return counts, num_lines


def average_log_probability(model: bytes, lines: Iterator[str]) -> float:
  """ALP: mean over lines of the sum of log p of their pieces, in nats.

  p is the unigram distribution of the pieces on these same lines. Source:
  Zheng et al. 2021, equation 1.
  """
  counts, num_lines = _counts(model, lines)
  used = counts[counts > 0]
  return float(used @ np.log(used / used.sum())) / num_lines


def allocate(
  alps: Mapping[str, Sequence[float]], steps: Sequence[int], *, budget: int
) -> dict[str, int]:
  """Pieces of each language: steps go where the gain a piece is largest.

  Args:
    alps: language -> ALP at each of `steps`; shorter where a language has not
      enough text for the later ones.
    steps: numbers of pieces, rising.
    budget: pieces in all.

  Returns:
    language -> one of `steps`; at least the first. They sum to the budget or
    less.

  Raises:
    ValueError: if the budget is less than the first step of every language.
  """
  level = dict.fromkeys(alps, 0)
  left = budget - steps[0] * len(alps)
  if left < 0:
    raise ValueError(
      f"a budget of {budget} pieces leaves less than {steps[0]} for each of "
      f"{len(alps)} languages; raise vocab_size or lower the first step"
    )

  def gain(code):
    """(gain a piece, cost) of the best of the next steps, bends smoothed out."""
    of, now = alps[code], level[code]
    options = [
      ((of[n] - of[now]) / abs(of[0]) / (steps[n] - steps[now]), n)
      for n in range(now + 1, len(of))
      if steps[n] - steps[now] <= left
    ]
    return max(options, default=(0.0, now))

  while True:
    best = max(alps, key=lambda code: (gain(code)[0], code))
    worth, upto = gain(best)
    if worth <= 0:
      return {code: steps[n] for code, n in level.items()}
    left -= steps[upto] - steps[level[best]]
    level[best] = upto


def clusters(
  probabilities: Mapping[str, Mapping[str, float]],
  *,
  num_clusters: int,
  seed: int,
) -> list[list[str]]:
  """Languages whose texts share pieces, by k-means on their fingerprints.

  Args:
    probabilities: language -> piece -> log probability.
    num_clusters: k.
    seed: of the starts, of which the best is taken.

  Returns:
    Lists of languages, none empty, in a stable order.
  """
  codes = sorted(probabilities)
  union = sorted(set().union(*probabilities.values()))
  index = {piece: i for i, piece in enumerate(union)}
  vectors = np.zeros((len(codes), len(index)), np.float32)
  for row, code in enumerate(codes):
    for piece, score in probabilities[code].items():
      vectors[row, index[piece]] = math.exp(score / 2)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  # Distances among n rows lie in n dimensions.
  left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
  points, rng = left * singular, np.random.default_rng(seed)
  k = min(num_clusters, len(codes))
  starts = [
    vq.kmeans2(points, k, minit="++", rng=rng, iter=_KMEANS_ITERATIONS)
    for _ in range(_KMEANS_STARTS)
  ]
  _, labels = min(
    starts, key=lambda found: np.sum((points - found[0][found[1]]) ** 2)
  )
  groups = collections.defaultdict(list)
  for code, label in zip(codes, labels):
    groups[int(label)].append(code)
  return sorted(groups.values())


def _merged(
  models: Sequence[bytes], weights: Sequence[float]
) -> dict[str, float]:
  """Union of pieces, each with the log of its mean probability."""
  union: dict[str, float] = {}
  for model, weight in zip(models, weights, strict=True):
    for piece, score in _pieces(model).items():
      union[piece] = union.get(piece, 0.0) + weight * math.exp(score)
  return {piece: math.log(p) for piece, p in union.items()}


def _recounted(model: bytes, lines: Iterator[str]) -> bytes:
  """The model with scores counted on text, one round of hard EM."""
  counts, _ = _counts(model, lines)
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  total = counts[_NUM_FIXED:].sum()
  pieces = {
    # Half a count for pieces that lost all theirs to longer ones.
    p.piece: math.log(max(counts[i], 0.5) / total)
    for i, p in enumerate(proto.pieces)
    if p.type == _NORMAL
  }
  return with_pieces(model, pieces)


def train_budgeted(
  lines: Mapping[str, Lines],
  *,
  vocab_size: int,
  method: Budgeted,
  train_model: TrainModel,
) -> tuple[bytes, dict]:
  """Trains a vocabulary of budgeted clusters.

  Args:
    lines: language -> its training lines, from the start at every call.
    vocab_size: pieces wanted, special and byte pieces included.
    method: of the division.
    train_model: trains a unigram model.

  Returns:
    (serialized model, {"capacity": language -> pieces, "clusters": lists of
    languages}).

  Raises:
    ValueError: if the steps do not rise, or vocab_size is too small.
  """
  steps = method.steps
  if list(steps) != sorted(set(steps)) or steps[0] < 1:
    raise ValueError(f"steps {steps} must rise from 1 or more")
  alps, pieces = {}, {}
  for code in tqdm.tqdm(sorted(lines), desc="languages", unit="language"):
    model = train_model([code], _NUM_FIXED + method.language_pieces)
    pieces[code] = _pieces(model)
    num_longer = sum(len(piece) > 1 for piece in pieces[code])
    alps[code] = [
      average_log_probability(
        with_pieces(model, _likeliest(pieces[code], n)), lines[code]()
      )
      for n in steps
      if n <= num_longer or n == steps[0]
    ]
  alphabets = {
    code: {piece for piece in of if len(piece) == 1}
    for code, of in pieces.items()
  }
  wanted = vocab_size - _NUM_FIXED - len(set().union(*alphabets.values()))
  groups = clusters(pieces, num_clusters=method.num_clusters, seed=method.seed)
  budget = wanted
  for _ in range(_MAX_GROWTHS):
    capacity = allocate(alps, steps, budget=budget)
    sizes = [sum(capacity[code] for code in group) for group in groups]
    models = [
      train_model(
        group,
        _NUM_FIXED + size + len(set().union(*(alphabets[c] for c in group))),
      )
      for group, size in zip(tqdm.tqdm(groups, desc="clusters"), sizes)
    ]
    union = _merged(models, [size / sum(sizes) for size in sizes])
    longer = sum(len(piece) > 1 for piece in union)
    # Clusters share pieces: what they share is given out again.
    if longer >= 0.99 * wanted or sum(sizes) < 0.9 * budget:
      break
    budget = int(budget * wanted / longer) + 1
  num_characters = sum(len(piece) == 1 for piece in union)
  kept = _likeliest(union, vocab_size - _NUM_FIXED - num_characters)
  model = with_pieces(models[0], kept)
  for _ in range(_EM_ROUNDS):
    model = _recounted(
      model, (line for code in sorted(lines) for line in lines[code]())
    )
  return model, {"capacity": capacity, "clusters": groups}
