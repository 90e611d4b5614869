"""Ids and pieces with a meaning of their own, the same in every tokenizer.

pad, eos and unk sit where T5 puts them and there is no beginning-of-sequence
piece. The two turn markers are control pieces: no text encodes to them, so a
document or prompt that spells "<|user|>" cannot forge a turn. SentencePiece
places its 256 byte pieces after them.
"""

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
USER_ID = 3
ASSISTANT_ID = 4
FIRST_BYTE_ID = 5
NEWLINE_ID = FIRST_BYTE_ID + 0x0A

PAD_PIECE = "<pad>"
EOS_PIECE = "</s>"
UNK_PIECE = "<unk>"
USER_PIECE = "<|user|>"
ASSISTANT_PIECE = "<|assistant|>"

# In id order: PIECES[i] is the piece of id i.
PIECES = (PAD_PIECE, EOS_PIECE, UNK_PIECE, USER_PIECE, ASSISTANT_PIECE)


def is_byte(token_id: int) -> bool:
  """Whether an id is one of the 256 pieces of byte fallback."""
  return FIRST_BYTE_ID <= token_id < FIRST_BYTE_ID + 256
