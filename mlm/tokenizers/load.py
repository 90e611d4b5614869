"""Loading a tokenizer directory, with its integrity checked."""

import hashlib
import json
import os

import sentencepiece

from mlm.tokenizers import special

MODEL_FILE = "sentencepiece.model"
CARD_FILE = "card.json"


def read_card(tokenizer_dir: str) -> dict:
  """The card of a finished tokenizer.

  Raises:
    FileNotFoundError: if the directory holds no finished tokenizer.
  """
  path = os.path.join(tokenizer_dir, CARD_FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {CARD_FILE} in {tokenizer_dir!r}; train a tokenizer there first "
      "(job train_tokenizer)"
    )
  with open(path, encoding="utf-8") as f:
    return json.load(f)


def model_path(tokenizer_dir: str) -> str:
  """Path of the model file, after checking it against the card's hash.

  Raises:
    FileNotFoundError: if the card or the model is missing.
    ValueError: if the model is not the one the card describes.
  """
  card = read_card(tokenizer_dir)
  path = os.path.join(tokenizer_dir, MODEL_FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"{CARD_FILE} but no {MODEL_FILE} in {tokenizer_dir!r}; the directory "
      "was copied in part, copy it whole"
    )
  with open(path, "rb") as f:
    found = hashlib.sha256(f.read()).hexdigest()
  if found != card["model_sha256"]:
    raise ValueError(
      f"{path}: sha256 {found} is not the card's {card['model_sha256']}; the "
      "model and its card belong to different tokenizers, restore the pair"
    )
  return path


def check_special_pieces(
  processor: sentencepiece.SentencePieceProcessor, name: str
) -> None:
  """Raises ValueError unless ids 0-5 are the pieces `special` declares."""
  expected = (*special.PIECES, "<0x00>")
  size = processor.get_piece_size()
  found = tuple(
    processor.id_to_piece(i) for i in range(min(len(expected), size))
  )
  if found != expected:
    raise ValueError(
      f"{name}: ids 0.. are {found}, this project needs {expected}; train the "
      "tokenizer with mlm.tokenizers.train"
    )


def load(tokenizer_dir: str) -> sentencepiece.SentencePieceProcessor:
  """The SentencePiece processor of a tokenizer directory.

  Args:
    tokenizer_dir: directory with sentencepiece.model and card.json.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if the model is not the card's, or its special ids are not ours.
  """
  path = model_path(tokenizer_dir)
  processor = sentencepiece.SentencePieceProcessor(model_file=path)
  check_special_pieces(processor, path)
  return processor


def from_bytes(model: bytes) -> sentencepiece.SentencePieceProcessor:
  """The processor of a model that was trained in this process.

  Raises:
    ValueError: if its special ids are not ours.
  """
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  check_special_pieces(processor, "the trained model")
  return processor
