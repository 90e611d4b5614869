"""Shares of training text that make languages cost about the same.

A vocabulary follows the text it is trained on: a language with more of it gets
more pieces. Tokenizers are trained in rounds; after each, a language that takes
more tokens than the mean for the same lines gets more text, and one that takes
fewer gets less. The reference keeps the tokens it had before, so that premiums
fall because the others fall and not because the reference rises.

Ours; of the kin of parity-aware merges (Foroutan et al. 2025, unconfirmed).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sentencepiece
import tqdm

# {code: characters of training text} -> serialized SentencePiece model.
TrainModel = Callable[[Mapping[str, int]], bytes]


@dataclasses.dataclass(frozen=True)
class Balanced:
  """How premiums are evened out.

  Attributes:
    parallel: directory of line-aligned texts that are not in the corpus, as
      `fairness.read_parallel` takes.
    reference: code of the language that keeps its tokens.
    rounds: tokenizers trained before the last one.
    exponent: text is multiplied by (tokens / mean)^exponent; too much swings.
  """

  parallel: str
  reference: str
  rounds: int
  exponent: float


def _tokens(
  model: bytes, texts: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, float]:
  """code -> tokens of its lines, the mean over its texts."""
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  return {
    code: float(
      np.mean([sum(map(len, processor.encode(lines))) for lines in of])
    )
    for code, of in texts.items()
  }


def balanced_amounts(
  amounts: Mapping[str, int],
  texts: Mapping[str, Sequence[Sequence[str]]],
  *,
  method: Balanced,
  train_model: TrainModel,
) -> tuple[dict[str, int], list[dict]]:
  """Divides the same amount of text so that premiums are nearer each other.

  Args:
    amounts: code -> characters to begin with.
    texts: code -> its line-aligned texts, one or several, the reference among
      them. A language without keeps its share of the text.
    method: of the rounds.
    train_model: trains a tokenizer.

  Returns:
    (code -> characters, of each round {"characters", "premium": of the
    tokenizer that they gave}).

  Raises:
    ValueError: if the reference or all others are not in both the corpus and
      the parallel texts, or rounds or exponent are not positive.
  """
  if method.rounds < 1 or not method.exponent > 0:
    raise ValueError(
      f"rounds {method.rounds} must be 1 or more and exponent "
      f"{method.exponent} above 0"
    )
  measured = {code: of for code, of in texts.items() if code in amounts}
  others = sorted(measured.keys() - {method.reference})
  if method.reference not in measured or not others:
    raise ValueError(
      f"corpus and parallel texts share {sorted(measured) or 'no language'}; "
      f"they must share the reference {method.reference} and another"
    )
  total, history, at_first = sum(amounts.values()), [], None
  for _ in tqdm.tqdm(range(method.rounds), desc="balancing", unit="round"):
    tokens = _tokens(train_model(amounts), measured)
    of_reference = tokens[method.reference]
    history.append(
      {
        "characters": dict(amounts),
        "premium": {code: tokens[code] / of_reference for code in others},
      }
    )
    at_first = at_first or of_reference
    mean = np.mean([tokens[code] for code in others])
    wanted = {**dict.fromkeys(others, mean), method.reference: at_first}
    weights = {
      code: n * (tokens[code] / wanted[code]) ** method.exponent
      if code in measured
      else n
      for code, n in amounts.items()
    }
    scale = total / sum(weights.values())
    amounts = {code: max(1, round(w * scale)) for code, w in weights.items()}
  return dict(amounts), history
