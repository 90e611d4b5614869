"""Job: a tokenizer for the languages of a corpus, and its token counts."""

from mlm.languages import samplers
from mlm.tokenizers import balance, budget, count, train


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
) -> None:
  """Trains a SentencePiece tokenizer on a sampled budget of text.

  Args:
    corpus: finished corpus directory.
    output: tokenizer directory.
    vocab_size: pieces, special and byte pieces included.
    sampler: of `mlm.languages.samplers`, how much of each language.
    budget_characters: characters to train on in all.
    character_coverage: share of characters that get pieces of their own.
    division: `budget.Budgeted` divides the vocabulary over clusters of
      languages (XLM-V), `balance.Balanced` evens out premiums; None trains one
      model on the sampled text.
    seed: of the sample.
    num_threads: of the trainer.
  """
  train.train_tokenizer(
    corpus=corpus,
    output=output,
    vocab_size=vocab_size,
    sampler=sampler,
    budget_characters=budget_characters,
    character_coverage=character_coverage,
    division=division,
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
