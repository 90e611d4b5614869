"""Tokenizers of several makers behind one interface, to be compared."""

import dataclasses
import os
import re
from collections.abc import Callable

import sentencepiece

from mlm.tokenizers import load

# What cl100k_base splits text by before merging; .tiktoken files hold ranks only.
_TIKTOKEN_PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A tokenizer as functions.

  Attributes:
    name: to show.
    encode: text -> ids, without special tokens.
    decode: ids -> text.
    vocab_size: ids there are, special ones included.
    byte_ids: ids that stand for single bytes of characters without a piece;
      empty for byte-level tokenizers, whose pieces are all bytes.
  """

  name: str
  encode: Callable[[str], list[int]]
  decode: Callable[[list[int]], str]
  vocab_size: int
  byte_ids: frozenset[int]


def open_encoder(path: str, name: str) -> Encoder:
  """Opens a tokenizer by what its path is.

  Args:
    path: directory of a tokenizer of ours, a SentencePiece `.model`, a Hugging
      Face `tokenizer.json`, or a `.tiktoken` file of ranks, split as cl100k_base.
    name: to show.

  Raises:
    FileNotFoundError: if there is no such path.
    ValueError: if it is none of these, or cannot be read as what it seems.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(f"tokenizer {name}: no {path}; check the path")
  try:
    if os.path.isdir(path):
      return _of_sentencepiece(load.load(path), name)
    if path.endswith(".model"):
      return _of_sentencepiece(
        sentencepiece.SentencePieceProcessor(model_file=path), name
      )
    if path.endswith(".json"):
      return _of_hugging_face(path, name)
    if path.endswith(".tiktoken"):
      return _of_tiktoken(path, name)
  except Exception as error:  # the tokenizers package raises Exception itself
    raise ValueError(
      f"tokenizer {name}: cannot read {path}: {error}"
    ) from error
  raise ValueError(
    f"tokenizer {name}: {path} is no directory, .model, .json or .tiktoken file"
  )


def _of_sentencepiece(processor, name: str) -> Encoder:
  size = processor.get_piece_size()
  return Encoder(
    name,
    processor.encode,
    processor.decode,
    size,
    frozenset(i for i in range(size) if processor.is_byte(i)),
  )


def _of_hugging_face(path: str, name: str) -> Encoder:
  import tokenizers

  tokenizer = tokenizers.Tokenizer.from_file(path)
  vocabulary = tokenizer.get_vocab()
  return Encoder(
    name,
    lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    tokenizer.get_vocab_size(),
    frozenset(
      number
      for piece, number in vocabulary.items()
      if re.fullmatch(r"<0x[0-9A-F]{2}>", piece)
    ),
  )


def _of_tiktoken(path: str, name: str) -> Encoder:
  import tiktoken
  import tiktoken.load

  ranks = tiktoken.load.load_tiktoken_bpe(path)
  encoding = tiktoken.Encoding(
    name, pat_str=_TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={}
  )
  return Encoder(
    name, encoding.encode_ordinary, encoding.decode, len(ranks), frozenset()
  )
