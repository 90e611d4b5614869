"""A tokenizer with pieces for new languages behind those it has.

The ids of the base stay, so a model's embedding rows keep their meaning; new
pieces come from a second tokenizer, trained on text of the new languages.

Scores: a unigram model of old and new text together, of which the new is a
share w, gives a piece of the base (1 - w) p_base and a new piece w p_second.
Dividing both by 1 - w leaves the base's scores as they are, bit for bit, and
gives a new piece log p_second + log(w / (1 - w)). So a text in whose best
segmentation no new piece has a part is segmented as before; w says how readily
new pieces break into old text, and the card counts how often they do.
Counting scores anew on pooled text, as `budget` does, would change the base's,
and needs the base's text, which those who extend a published model do not have.
"""

import hashlib
import math

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from mlm.text import documents
from mlm.tokenizers import directory, load, train

_Processor = sentencepiece.SentencePieceProcessor
_NORMAL = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL


def extend_tokenizer(
  *,
  base: str,
  second: str,
  corpus: str,
  output: str,
  max_new_pieces: int,
  new_share: float,
) -> dict:
  """Makes a tokenizer directory: the base's pieces, then new ones.

  The output directory appears whole or not at all. If it is there already with
  the same settings the card is returned at once.

  Args:
    base: tokenizer directory whose ids are kept; may be an extended one.
    second: tokenizer directory trained on text of the new languages.
    corpus: finished corpus directory that the extended model is to be trained
      on; only its validation text is read here.
    output: tokenizer directory to make.
    max_new_pieces: most pieces to add, the likeliest of the second first.
    new_share: share w of the new languages' text for the scores, in (0, 1);
      0.5 keeps the second's scores.

  Returns:
    The card: "settings"; "vocab_size", "base_vocab_size", "model_sha256",
    "sentencepiece_version"; "validation" {code: see `train.check_language`,
    and "base_tokens", and "new_tokens" of the tokens that are new pieces}.

  Raises:
    FileNotFoundError: if the corpus or a tokenizer is unfinished.
    ValueError: if an argument is out of range, the tokenizers treat text
      differently, the second has nothing new, or `output` holds a tokenizer
      with other settings.
  """
  counts = documents.read_counts(corpus)
  settings = {
    "base_sha256": load.read_card(base)["model_sha256"],
    "second_sha256": load.read_card(second)["model_sha256"],
    "corpus_counts_sha256": train.counts_sha256(counts),
    "max_new_pieces": max_new_pieces,
    "new_share": new_share,
  }
  if card := directory.finished_card(output, settings):
    return card
  old = load.load(base)
  model = extended_model(
    old.serialized_model_proto(),
    load.load(second).serialized_model_proto(),
    max_new_pieces=max_new_pieces,
    new_share=new_share,
  )
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  check_extension(old, processor)
  card = {
    "settings": settings,
    "vocab_size": processor.get_piece_size(),
    "base_vocab_size": old.get_piece_size(),
    "model_sha256": hashlib.sha256(model).hexdigest(),
    "sentencepiece_version": sentencepiece.__version__,
    "validation": {
      code: {
        **train.check_language(processor, docs),
        **_change(old, processor, [document.text for document in docs]),
      }
      for code, docs in train.validation_documents(corpus, counts)
    },
  }
  directory.write(output, model, card)
  return card


def extended_model(
  base: bytes, second: bytes, *, max_new_pieces: int, new_share: float
) -> bytes:
  """The base with the pieces that it lacks of a second model, likeliest first.

  Args:
    base: serialized SentencePiece unigram model.
    second: another that treats text alike.
    max_new_pieces: most pieces to add, >= 1.
    new_share: w of the module's docstring, in (0, 1).

  Returns:
    Serialized model; its first ids are those of the base.

  Raises:
    ValueError: if an argument is out of range, the models treat text
      differently, or the second has no piece that the base lacks.
  """
  if max_new_pieces < 1:
    raise ValueError(f"max_new_pieces {max_new_pieces} must be at least 1")
  if not 0 < new_share < 1:
    raise ValueError(f"new_share {new_share} must be between 0 and 1")
  proto = sentencepiece_model_pb2.ModelProto.FromString(base)
  other = sentencepiece_model_pb2.ModelProto.FromString(second)
  for name, of in (("base", proto), ("second", other)):
    if of.trainer_spec.model_type != of.trainer_spec.UNIGRAM:
      raise ValueError(
        f"the {name} tokenizer is no unigram model; its scores are no log "
        "probabilities, train it with job train_tokenizer"
      )
  different = [
    field.name
    for field in proto.normalizer_spec.DESCRIPTOR.fields
    if getattr(proto.normalizer_spec, field.name)
    != getattr(other.normalizer_spec, field.name)
  ]
  if different:
    raise ValueError(
      f"base and second tokenizer differ in {', '.join(different)}, so they do "
      "not see the same text; train the second with job train_tokenizer"
    )
  known = {p.piece for p in proto.pieces}
  new = sorted(
    (p for p in other.pieces if p.type == _NORMAL and p.piece not in known),
    key=lambda p: (-p.score, p.piece),
  )
  if not new:
    raise ValueError(
      "nothing to add: the base has every piece of the second tokenizer; train "
      "the second on text of the new languages, with more pieces"
    )
  shift = math.log(new_share / (1 - new_share))
  for piece in new[:max_new_pieces]:
    proto.pieces.add(piece=piece.piece, score=piece.score + shift, type=_NORMAL)
  proto.trainer_spec.vocab_size = len(proto.pieces)
  return proto.SerializeToString()


def check_extension(base: _Processor, extended: _Processor) -> None:
  """Raises ValueError unless the first ids of one are all those of the other."""
  size, larger = base.get_piece_size(), extended.get_piece_size()
  if larger <= size:
    raise ValueError(
      f"a tokenizer of {larger} pieces is no extension of one of {size}; make "
      "it with job extend_tokenizer"
    )
  for i in range(size):
    if base.id_to_piece(i) != extended.id_to_piece(i):
      raise ValueError(
        f"no extension of the base tokenizer: id {i} is "
        f"{extended.id_to_piece(i)!r}, not {base.id_to_piece(i)!r}; make it "
        "from this base with job extend_tokenizer"
      )


def _change(base: _Processor, extended: _Processor, texts: list[str]) -> dict:
  size = base.get_piece_size()
  return {
    "base_tokens": sum(map(len, base.encode(texts))),
    "new_tokens": sum(i >= size for ids in extended.encode(texts) for i in ids),
  }
