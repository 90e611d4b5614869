"""Training a SentencePiece unigram tokenizer on a corpus.

Text is left as it is: identity normalisation, whitespace kept, bytes for what
has no piece. The default rules of SentencePiece turn the zero-width non-joiner
of Persian and every line break into a space, so a model on them can never
write either.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator

import sentencepiece

from mlm.languages import samplers
from mlm.text import documents
from mlm.tokenizers import (
  balance,
  budget,
  directory,
  fairness,
  load,
  sample,
  special,
)

# Documents a language for the check on validation text.
NUM_VALIDATION_DOCUMENTS = 1000

_PARTS = "parts"

# Of every model.
_TRAINER = {
  "model_type": "unigram",
  "byte_fallback": True,
  "normalization_rule_name": "identity",
  "remove_extra_whitespaces": False,
  "allow_whitespace_only_pieces": True,
  "add_dummy_prefix": True,
  "split_by_unicode_script": True,
  "split_digits": False,
  "max_sentencepiece_length": 16,
}

# From here on SentencePiece needs 64-bit suffix-array indices (2^31 with room).
EXTREMELY_LARGE_CHARACTERS = 2**30


def train_tokenizer(
  *,
  corpus: str,
  output: str,
  vocab_size: int,
  sampler: samplers.Sampler,
  budget_characters: int,
  character_coverage: float,
  division: budget.Budgeted | balance.Balanced | None,
  seed: int,
  num_threads: int,
) -> dict:
  """Trains a tokenizer and writes `sentencepiece.model` and `card.json`.

  The output directory appears whole or not at all. If it is there already with
  the same settings the card is returned at once.

  Args:
    corpus: finished corpus directory.
    output: tokenizer directory to make.
    vocab_size: pieces wanted, specials and 256 bytes included. Less text than
      that supports gives fewer: the card's "vocab_size" is the number reached.
    sampler: of `mlm.languages.samplers`, over characters.
    budget_characters: characters of training text in all languages together;
      the trainer holds them in memory, however large the corpus.
    character_coverage: share of character occurrences in the pooled sample that
      get a piece of their own; the rest is written in bytes.
    division: None trains one model on the sampled text. Budgeted divides the
      vocabulary over clusters of languages, Balanced changes the shares of text
      until languages cost about the same. Both train many models, and go on
      from those that are there when they were killed.
    seed: of the draw of documents.
    num_threads: does not change the result.

  Returns:
    The card: "settings"; "division" (capacities and clusters, or the rounds;
    None without); "vocab_size", "model_sha256",
    "sentencepiece_version"; "sample" {code: counts of what was taken, split and
    dropped}; "validation" {code: see `check_language`}.

  Raises:
    FileNotFoundError: if the corpus is unfinished.
    ValueError: if an argument is out of range, the vocabulary cannot hold the
      alphabet, or `output` holds a tokenizer with other settings.
  """
  counts = documents.read_counts(corpus)
  plan = sample.plan_sample(
    counts, sampler=sampler, budget_characters=budget_characters
  )
  settings = {
    "corpus_counts_sha256": counts_sha256(counts),
    "vocab_size": vocab_size,
    "characters": {code: of.budget for code, of in plan.items()},
    "character_coverage": character_coverage,
    "division": division and json.loads(json.dumps(_described(division))),
    "seed": seed,
    **_TRAINER,
    "max_line_bytes": sample.MAX_LINE_BYTES,
  }
  if card := directory.finished_card(output, settings):
    return card
  if not 0 < character_coverage <= 1:
    raise ValueError(
      f"character_coverage {character_coverage} must be in (0, 1]"
    )
  smallest = special.FIRST_BYTE_ID + 256 + 1
  if vocab_size < smallest:
    raise ValueError(
      f"vocab_size {vocab_size} leaves no room beside {smallest - 1} special "
      f"and byte pieces; choose {smallest} or more"
    )
  parts = os.path.join(output, _PARTS)
  model, plan, divided = _train(
    corpus, plan, settings, division, num_threads, parts
  )
  processor = load.from_bytes(model)
  reached = processor.get_piece_size()
  if reached < vocab_size:
    logging.warning(
      "The sample supports %d pieces of the %d wanted; the tokenizer has %d. "
      "Raise budget_characters or lower vocab_size.",
      reached,
      vocab_size,
      reached,
    )
  card = {
    "settings": settings,
    "division": divided,
    "vocab_size": reached,
    "model_sha256": hashlib.sha256(model).hexdigest(),
    "sentencepiece_version": sentencepiece.__version__,
    "sample": {code: dataclasses.asdict(s) for code, s in plan.items()},
    "validation": {
      code: check_language(processor, docs)
      for code, docs in validation_documents(corpus, counts)
    },
  }
  directory.write(output, model, card)
  shutil.rmtree(parts, ignore_errors=True)
  return card


def counts_sha256(counts: dict) -> str:
  """Hash of a corpus's counts: names the corpus wherever it lies."""
  canonical = json.dumps(counts["languages"], sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()


def validation_documents(
  corpus: str, counts: dict
) -> Iterator[tuple[str, list[documents.Document]]]:
  """(code, its first validation documents) of each language that has any."""
  for code in sorted(counts["languages"]):
    docs = documents.read_documents(corpus, code, "validation")
    if first := list(itertools.islice(docs, NUM_VALIDATION_DOCUMENTS)):
      yield code, first


def check_language(processor, docs) -> dict:
  """How a tokenizer fares on documents it was not trained on.

  Args:
    processor: SentencePieceProcessor.
    docs: iterable of Document.

  Returns:
    "documents", "bytes", "tokens" (without EOS), "bytes_per_token" (None if
    there is no token), "byte_fallback_rate" (share of tokens that are bytes of
    characters without a piece; the line break, always a byte piece, is left
    out), "lossless" (documents that decode to exactly themselves) and
    "first_lossy_url" (None if all do; U+2581, which SentencePiece uses for the
    space, is the known cause).
  """
  num_documents = num_bytes = num_tokens = num_fallback = lossless = 0
  first_lossy_url = None
  for document in docs:
    ids = processor.encode(document.text)
    num_documents += 1
    num_bytes += len(document.text.encode())
    num_tokens += len(ids)
    num_fallback += sum(
      special.is_byte(i) and i != special.NEWLINE_ID for i in ids
    )
    if processor.decode(ids) == document.text:
      lossless += 1
    elif first_lossy_url is None:
      first_lossy_url = document.url
  return {
    "documents": num_documents,
    "bytes": num_bytes,
    "tokens": num_tokens,
    "bytes_per_token": num_bytes / num_tokens if num_tokens else None,
    "byte_fallback_rate": num_fallback / num_tokens if num_tokens else None,
    "lossless": lossless,
    "first_lossy_url": first_lossy_url,
  }


def _described(division) -> dict:
  """A division with the hash of what it reads."""
  described = {
    "method": type(division).__name__,
    **dataclasses.asdict(division),
  }
  if isinstance(division, balance.Balanced):
    texts = fairness.read_parallel(division.parallel)
    data = json.dumps(texts, sort_keys=True).encode()
    described["parallel"] = hashlib.sha256(data).hexdigest()
  return described


def _remembered(train_model, directory: str):
  """The function, with its models kept in files: a killed run finds them."""

  def remembered(amounts, vocab_size):
    key = json.dumps([sorted(amounts.items()), vocab_size]).encode()
    name = f"{hashlib.sha256(key).hexdigest()}.model"
    path = os.path.join(directory, name)
    if not os.path.exists(path):
      os.makedirs(directory, exist_ok=True)
      model, _ = train_model(amounts, vocab_size)
      with open(f"{path}.partial", "wb") as f:
        f.write(model)
      os.replace(f"{path}.partial", path)
    with open(path, "rb") as f:
      return f.read()

  return remembered


def _train(corpus, plan, settings, division, num_threads, parts):
  """(model, sample, what the division came to or None)."""
  amounts, vocab_size = settings["characters"], settings["vocab_size"]

  def sampled(amounts):
    chosen = {
      code: sample.LanguageSample(available=plan[code].available, budget=n)
      for code, n in amounts.items()
    }
    return sample.sample_lines(corpus, chosen, seed=settings["seed"]), chosen

  def train_model(amounts, vocab_size):
    lines, chosen = sampled(amounts)
    model = train_on_lines(
      lines,
      vocab_size=vocab_size,
      character_coverage=settings["character_coverage"],
      num_threads=num_threads,
      characters=sum(amounts.values()),
    )
    return model, chosen

  # Models of other settings may lie there from a run that was given up.
  settings_sha256 = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
  remembered = _remembered(train_model, os.path.join(parts, settings_sha256))
  if isinstance(division, balance.Balanced):
    texts: dict[str, list] = {}
    for label, lines in fairness.read_parallel(division.parallel).items():
      if language := fairness.language_of(label):
        texts.setdefault(language.code, []).append(lines)
    amounts, rounds = balance.balanced_amounts(
      amounts,
      texts,
      method=division,
      train_model=lambda amounts: remembered(amounts, vocab_size),
    )
    return *train_model(amounts, vocab_size), {"rounds": rounds}
  if division is None:
    return *train_model(amounts, vocab_size), None

  def lines_of(code):
    lines, chosen = sampled({code: amounts[code]})
    plan.update(chosen)  # the last pass over all text fills it
    return lines

  model, divided = budget.train_budgeted(
    {code: functools.partial(lines_of, code) for code in plan},
    vocab_size=vocab_size,
    method=division,
    train_model=lambda codes, size: remembered(
      {code: amounts[code] for code in codes}, size
    ),
  )
  return model, plan, divided


def train_on_lines(
  lines: Iterator[str],
  *,
  vocab_size: int,
  character_coverage: float,
  num_threads: int,
  characters: int,
) -> bytes:
  """A SentencePiece model of lines, each at most `sample.MAX_LINE_BYTES`.

  Args:
    lines: text.
    vocab_size: see `train_tokenizer`.
    character_coverage: see `train_tokenizer`.
    num_threads: does not change the result.
    characters: about how many the lines have.

  Raises:
    ValueError: if the vocabulary cannot hold the alphabet.
  """
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines,
      model_writer=model,
      vocab_size=vocab_size,
      character_coverage=character_coverage,
      max_sentence_length=sample.MAX_LINE_BYTES,
      **_TRAINER,
      pad_id=special.PAD_ID,
      eos_id=special.EOS_ID,
      unk_id=special.UNK_ID,
      bos_id=-1,
      pad_piece=special.PAD_PIECE,
      eos_piece=special.EOS_PIECE,
      unk_piece=special.UNK_PIECE,
      control_symbols=[special.USER_PIECE, special.ASSISTANT_PIECE],
      # A small corpus fills a smaller vocabulary; the size reached is reported.
      hard_vocab_limit=False,
      train_extremely_large_corpus=characters >= EXTREMELY_LARGE_CHARACTERS,
      num_threads=num_threads,
      minloglevel=1,
    )
  except RuntimeError as error:
    raise ValueError(
      f"SentencePiece could not train {vocab_size} pieces at "
      f"character coverage {character_coverage}: {error}; raise "
      "vocab_size above the alphabet or lower character_coverage"
    ) from error
  return model.getvalue()
