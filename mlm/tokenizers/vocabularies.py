"""The seqio view of a tokenizer."""

import functools
import os

import seqio
import tensorflow as tf

from mlm.tokenizers import load, special


class SharedSentencePieceVocabulary(seqio.SentencePieceVocabulary):
  """A SentencePieceVocabulary whose tasks share one in-graph tokenizer.

  seqio builds a tokenizer, and with it a copy of the model in memory, each time
  a task asks: with a hundred languages and 250,000 pieces that is gigabytes.
  """

  def __getstate__(self):
    state = super().__getstate__()
    state.pop("tf_tokenizer", None)
    return state

  @functools.cached_property
  def tf_tokenizer(self):
    # The first to ask may be a dataset's graph; what is shared must not be a
    # part of it.
    with tf.init_scope():
      return super().tf_tokenizer


@functools.cache
def _shared(path: str) -> SharedSentencePieceVocabulary:
  return SharedSentencePieceVocabulary(path, extra_ids=0)


def vocabulary(tokenizer_dir: str) -> seqio.SentencePieceVocabulary:
  """The seqio vocabulary of a tokenizer directory, one object a directory.

  There are no sentinel ids: the vocabulary size is the number of pieces.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if the model is not the card's or its special ids are not ours,
      or if seqio, which keeps every model it read until the process ends, still
      holds an earlier model of this path; start a new process.
  """
  processor = load.load(tokenizer_dir)
  result = _shared(os.path.abspath(load.model_path(tokenizer_dir)))
  seen = result.tokenizer
  size = processor.get_piece_size()
  if seen.get_piece_size() != size or any(
    seen.id_to_piece(i) != processor.id_to_piece(i)
    or seen.get_score(i) != processor.get_score(i)
    for i in range(size)
  ):
    raise ValueError(
      f"{tokenizer_dir!r} was replaced after this process read it; start a new "
      "process"
    )
  ids = (result.pad_id, result.eos_id, result.unk_id)
  if ids != (special.PAD_ID, special.EOS_ID, special.UNK_ID):
    raise ValueError(f"{tokenizer_dir!r}: seqio reads pad, eos, unk as {ids}")
  return result
