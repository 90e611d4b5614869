"""Job: the tokens of a corpus on disk, for training to read by index."""

from mlm.data import cache, tasks
from mlm.tokenizers import load

_PREFIX = "mc4"


def cache_tokens(*, corpus: str, tokenizer: str, output: str) -> None:
  """Tokenizes the training text of every language, once.

  Args:
    corpus: finished corpus directory.
    tokenizer: tokenizer directory.
    output: directory of the cache; languages that are in it are kept.
  """
  names = tasks.register_tasks(
    corpus=corpus,
    tokenizer=tokenizer,
    sequence_length=cache.CHUNK_TOKENS,
    prefix=_PREFIX,
  )
  cache.write_cache(
    tasks=names,
    split="train",
    output=output,
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
  )
  print(f"Tokens: {output}")
