"""How a tokenizer treats each language, on lines that say the same in all.

Fertility, premium and what else is compared, by language and never pooled.
"""

import dataclasses
import glob
import gzip
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mlm.languages import registry
from mlm.tokenizers import encoders

ENGLISH = "eng"
_RENYI_ORDER = 2.5


def _preference(path: str) -> tuple:
  name = os.path.basename(path)
  kind = name.split(".")[0]
  return (kind != "src", len(kind), name)


def read_parallel(directory: str) -> dict[str, list[str]]:
  """Line-aligned texts: label -> lines, "eng" among them.

  Reads `<name>.<label>.txt` and `.txt.gz`, as NTREX-128 is laid out. Where a
  label has several files, "src" is taken, else the shortest name.

  Raises:
    FileNotFoundError: if there is no such file, or none of English.
    ValueError: if files have different numbers of lines, or are not UTF-8.
  """
  paths: dict[str, str] = {}
  pattern = os.path.join(glob.escape(directory), "*.*.txt*")
  for path in sorted(glob.glob(pattern), key=_preference):
    paths.setdefault(os.path.basename(path).split(".")[1], path)
  if ENGLISH not in paths:
    raise FileNotFoundError(
      f"{directory!r} has texts of {sorted(paths) or 'nothing'}; it needs "
      f"<name>.{ENGLISH}.txt(.gz) and others beside it"
    )
  texts = {}
  for label, path in paths.items():
    opener = gzip.open if path.endswith(".gz") else open
    try:
      with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
        texts[label] = [line.rstrip("\r\n") for line in lines]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
      raise ValueError(f"{path} is not whole UTF-8 text: {error}") from error
  expected = len(texts[ENGLISH])
  for label, lines in texts.items():
    if len(lines) != expected:
      raise ValueError(
        f"{paths[label]} has {len(lines)} lines, English {expected}; parallel "
        "texts must be aligned line by line"
      )
  return texts


def language_of(label: str) -> registry.Language | None:
  """The language of a label such as zho-TW or srp-Latn; None if unknown.

  A label with a script that the registry does not have for it is unknown.
  """
  code, _, rest = label.partition("-")
  try:
    language = registry.lookup("iso639_3", code)
  except registry.UnknownLanguageError:
    return None
  is_script = len(rest) == 4
  return None if is_script and rest != language.script else language


@dataclasses.dataclass(frozen=True)
class Measures:
  """Of one language. See `measure` for the definitions."""

  lines: int
  tokens: int
  tokens_per_line: float
  fertility: float | None
  continued_words: float | None
  characters_per_token: float
  bytes_per_token: float
  premium: float
  premium_mean: float
  premium_p95: float
  lossless: float
  byte_fallback_rate: float
  renyi_efficiency: float
  average_rank: float
  pieces_used: int


def renyi_efficiency(counts: np.ndarray, order: float) -> float:
  """H_a / log2 of the number of types seen, of the unigram distribution.

  Args:
    counts: tokens of each type, zeros allowed, [types].
    order: a, not 1.

  Source: Zouhar et al. 2023, section 3.
  """
  p = counts[counts > 0] / counts.sum()
  if len(p) == 1:
    return 0.0
  entropy = math.log2(np.sum(p**order)) / (1 - order)
  return entropy / math.log2(len(p))


def average_rank(counts: np.ndarray) -> float:
  """Mean rank, from 0, of a token's type among types by frequency.

  Source: Limisiewicz et al. 2023 (vocabulary allocation).
  """
  ordered = np.sort(counts[counts > 0])[::-1]
  return float(np.arange(len(ordered)) @ ordered / ordered.sum())


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
  """Divergence in bits, in [0, 1], of two unigram distributions.

  0 is full overlap. Source: Limisiewicz et al. 2023 (vocabulary overlap).
  """
  p, q = a / a.sum(), b / b.sum()
  middle = (p + q) / 2

  def divergence(x):
    some = x > 0
    return np.sum(x[some] * np.log2(x[some] / middle[some]))

  return float((divergence(p) + divergence(q)) / 2)


def gini(values: Sequence[float]) -> float:
  """Inequality in [0, 1) of positive values; 0 if all are equal."""
  ordered = np.sort(np.asarray(values, float))
  ranks = np.arange(1, len(ordered) + 1)
  return float(
    2 * (ranks @ ordered) / (len(ordered) * ordered.sum())
    - (len(ordered) + 1) / len(ordered)
  )


def measure(
  encoder: encoders.Encoder,
  lines: Sequence[str],
  english_tokens: Sequence[int],
  *,
  spaced: bool,
) -> tuple[Measures, np.ndarray]:
  """Measures a tokenizer on the lines of one language.

  - fertility: tokens a word; continued_words: share of words in several tokens;
    None unless words stand between spaces.
  - premium: tokens over English's for all lines together; premium_mean and _p95
    of the ratios line by line (Petrov et al. 2023).
  - lossless: share of lines that decode to themselves.
  - byte_fallback_rate: share of tokens that are single bytes.

  Args:
    encoder: the tokenizer.
    lines: of the language, parallel to English's.
    english_tokens: tokens of English's lines, each above 0.
    spaced: whether words stand between spaces.

  Returns:
    (measures, tokens of each id [vocab_size]).
  """
  ids = [encoder.encode(line) for line in lines]
  sizes = np.array([len(x) for x in ids])
  total = int(sizes.sum())
  counts = np.bincount(
    np.concatenate([np.asarray(x, np.int64) for x in ids]),
    minlength=encoder.vocab_size,
  )
  ratios = sizes / np.asarray(english_tokens)
  words = [word for line in lines for word in line.split()] if spaced else []
  # Some tokenizers put the space before a word themselves, others need it.
  is_split = {
    word: min(len(encoder.encode(f"{space}{word}")) for space in ("", " ")) > 1
    for word in set(words)
  }
  return Measures(
    lines=len(lines),
    tokens=total,
    tokens_per_line=total / len(lines),
    fertility=total / len(words) if words else None,
    continued_words=(
      sum(is_split[word] for word in words) / len(words) if words else None
    ),
    characters_per_token=sum(map(len, lines)) / total,
    bytes_per_token=sum(len(line.encode()) for line in lines) / total,
    premium=total / int(np.sum(english_tokens)),
    premium_mean=float(ratios.mean()),
    premium_p95=float(np.quantile(ratios, 0.95)),
    lossless=float(
      np.mean([encoder.decode(x) == line for x, line in zip(ids, lines)])
    ),
    byte_fallback_rate=float(counts[sorted(encoder.byte_ids)].sum() / total),
    renyi_efficiency=renyi_efficiency(counts, _RENYI_ORDER),
    average_rank=average_rank(counts),
    pieces_used=int(np.count_nonzero(counts)),
  ), counts


def report_card(
  encoder: encoders.Encoder, texts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Measures], dict[str, np.ndarray]]:
  """Measures of every language of parallel texts, English's own among them.

  Lines that are empty in any language are left out in all.

  Raises:
    ValueError: if no line has text in all languages.
  """
  full = [
    i for i, row in enumerate(zip(*texts.values())) if all(map(str.strip, row))
  ]
  if not full:
    raise ValueError("no line has text in every language; check the files")
  kept = {label: [lines[i] for i in full] for label, lines in texts.items()}
  english = [len(encoder.encode(line)) for line in kept[ENGLISH]]
  measures, counts = {}, {}
  for label, lines in kept.items():
    language = language_of(label)
    spaced = language is not None and language.word_separator == "space"
    measures[label], counts[label] = measure(
      encoder, lines, english, spaced=spaced
    )
  return measures, counts
