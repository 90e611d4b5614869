"""Job: a tokenizer for the languages of a corpus, and its token counts."""

from mlm.tokenizers import budget, count, train


def train_tokenizer(
  *,
  corpus: str,
  output: str,
  vocab_size: int,
  temperature: float,
  budget_characters: int,
  character_coverage: float,
  budgeted: budget.Budgeted | None,
  seed: int,
  num_threads: int,
) -> None:
  """Trains a SentencePiece tokenizer on a temperature-sampled budget.

  Args:
    corpus: finished corpus directory.
    output: tokenizer directory.
    vocab_size: pieces, special and byte pieces included.
    temperature: T of p ∝ n^(1/T) over characters.
    budget_characters: characters to train on in all.
    character_coverage: share of characters that get pieces of their own.
    budgeted: `budget.Budgeted` divides the vocabulary over clusters of
      languages (XLM-V); None trains one model on all text.
    seed: of the sample.
    num_threads: of the trainer.
  """
  train.train_tokenizer(
    corpus=corpus,
    output=output,
    vocab_size=vocab_size,
    temperature=temperature,
    budget_characters=budget_characters,
    character_coverage=character_coverage,
    budgeted=budgeted,
    seed=seed,
    num_threads=num_threads,
  )
  counts = count.count_tokens(
    corpus=corpus, tokenizer=output, num_threads=num_threads
  )
  print(f"{'language':<12}{'documents':>12}{'tokens':>12}{'bytes/token':>14}")
  for code, splits in sorted(counts.items()):
    documents = sum(s["documents"] for s in splits.values())
    tokens = sum(s["tokens"] for s in splits.values())
    rate = sum(s["bytes"] for s in splits.values()) / tokens
    print(f"{code:<12}{documents:>12,}{tokens:>12,}{rate:>14.2f}")
  print(f"Tokenizer: {output}")
