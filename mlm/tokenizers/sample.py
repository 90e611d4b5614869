"""The text a tokenizer is trained on: a character budget for each language.

Documents stream by, and again where a budget is more than there is. Paragraphs become lines no longer than
SentencePiece's limit, which is in bytes and therefore three times shorter, in
characters, for Thai or Hindi than for English; whatever is split or dropped is
counted for each language.
"""

import collections
import dataclasses
import random
from collections.abc import Iterator, Mapping

from mlm.languages import samplers
from mlm.text import documents

MAX_LINE_BYTES = 4192  # SentencePiece's default max_sentence_length

# SentencePiece skips a whole line that has one of these: U+2585 stands for an
# unknown piece inside its trainer, and a NUL ends a string.
RESERVED_CHARACTERS = ("\u2585", "\0")


@dataclasses.dataclass
class LanguageSample:
  """What was taken of one language. Characters are Unicode code points.

  Attributes:
    available: characters in the train split.
    budget: characters to take; above `available` the text is repeated.
    taken: characters of the documents that were taken, line breaks included.
    documents: number of documents taken.
    lines: number of lines handed to the trainer.
    splits: number of extra lines made because a paragraph was too long.
    dropped: reason -> number of lines left out.
  """

  available: int
  budget: int
  taken: int = 0
  documents: int = 0
  lines: int = 0
  splits: int = 0
  dropped: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )


def plan_sample(
  counts: Mapping, *, sampler: samplers.Sampler, budget_characters: int
) -> dict[str, LanguageSample]:
  """Divides a budget in characters over the languages of a corpus.

  Where caps leave less than the budget, all that they leave is taken.

  Args:
    counts: `documents.read_counts`; languages without train text are left out.
    sampler: of `mlm.languages.samplers`.
    budget_characters: characters to draw in total, > 0.

  Raises:
    ValueError: if the budget is not positive or the corpus has no train text.
  """
  if budget_characters < 1:
    raise ValueError(f"budget_characters {budget_characters} must be positive")
  available = {
    code: splits["train"]
    for code, splits in sorted(counts["languages"].items())
    if splits.get("train", {}).get("characters")
  }
  amounts, _ = sampler(
    available,
    "characters",
    budget_characters,
    dict.fromkeys(available, 0.0),
  )
  return {
    code: LanguageSample(
      available=of["characters"], budget=max(1, round(amounts[code]))
    )
    for code, of in available.items()
  }


def split_line(line: str, max_bytes: int) -> list[str]:
  """Cuts a line into parts of at most `max_bytes` UTF-8 bytes.

  Cuts after the last whitespace that fits, else between characters. The parts
  joined are the line.

  Args:
    line: text without line breaks.
    max_bytes: largest part in bytes, at least 4: the longest character.
  """
  parts = []
  start = size = space = 0
  for position, character in enumerate(line):
    width = len(character.encode())
    if size + width > max_bytes:
      cut = space if space > start else position
      parts.append(line[start:cut])
      size = len(line[cut:position].encode())
      start = cut
    size += width
    if character.isspace():
      space = position + 1
  parts.append(line[start:])
  return parts


def sample_lines(
  corpus: str, plan: Mapping[str, LanguageSample], *, seed: int
) -> Iterator[str]:
  """Yields the training lines, filling in the plan's counts as it goes.

  Whole passes over a language first, then documents drawn by selection sampling
  with characters as weights (Knuth, The Art of Computer Programming 2, section
  3.4.2, Algorithm S): no document twice in a pass, and the sum lands within
  about a document of the budget.

  Args:
    corpus: directory of the document shards.
    plan: of `plan_sample`; its counters are written.
    seed: the draw of a language is a function of (seed, language).

  Raises:
    ValueError: if a language holds other text than counts.json says.
  """
  for code, language in plan.items():
    draw = random.Random(f"{seed} {code}")
    passes = -(-language.budget // language.available)
    for number in range(passes):
      wanted_of_pass = min(
        language.available, language.budget - number * language.available
      )
      before, seen = language.taken, 0
      for document in documents.read_documents(corpus, code, "train"):
        left = language.available - seen
        wanted = before + wanted_of_pass - language.taken
        seen += len(document.text)
        if draw.random() * left >= wanted:
          continue
        language.taken += len(document.text)
        language.documents += 1
        yield from _lines(document.text, language)
      if seen != language.available:
        raise ValueError(
          f"{code}: the shards hold {seen} characters, counts.json says "
          f"{language.available}; the corpus changed after it was counted, "
          "make it again"
        )


def _lines(text: str, language: LanguageSample) -> Iterator[str]:
  for paragraph in text.split("\n"):
    if not paragraph:
      continue
    if any(character in paragraph for character in RESERVED_CHARACTERS):
      language.dropped["reserved_character"] += 1
      continue
    parts = split_line(paragraph, MAX_LINE_BYTES)
    language.splits += len(parts) - 1
    language.lines += len(parts)
    yield from parts
