"""Job: a tokenizer with pieces for new languages behind those it has."""

from mlm.tokenizers import count, extend


def extend_tokenizer(
  *,
  base: str,
  second: str,
  corpus: str,
  output: str,
  max_new_pieces: int,
  new_share: float,
  num_threads: int,
) -> None:
  """Adds the pieces of a second tokenizer; the base's ids stay.

  Args:
    base: tokenizer directory to extend.
    second: tokenizer directory trained on text of the new languages.
    corpus: finished corpus directory to train the extended model on, with old
      and new languages; its tokens are counted.
    output: tokenizer directory.
    max_new_pieces: most pieces to add, likeliest first.
    new_share: share of the new languages' text, for the scores of new pieces.
    num_threads: for counting.
  """
  card = extend.extend_tokenizer(
    base=base,
    second=second,
    corpus=corpus,
    output=output,
    max_new_pieces=max_new_pieces,
    new_share=new_share,
  )
  count.count_tokens(corpus=corpus, tokenizer=output, num_threads=num_threads)
  print(
    f"{card['vocab_size'] - card['base_vocab_size']:,} new pieces behind "
    f"{card['base_vocab_size']:,}; bytes a token of validation text:\n"
    f"{'language':<12}{'before':>10}{'after':>10}{'new pieces':>14}"
  )
  for code, row in sorted(card["validation"].items()):
    print(
      f"{code:<12}{row['bytes'] / row['base_tokens']:>10.2f}"
      f"{row['bytes'] / row['tokens']:>10.2f}"
      f"{row['new_tokens'] / row['tokens']:>14.1%}"
    )
  print(f"Tokenizer: {output}")
