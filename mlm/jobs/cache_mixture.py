"""Job: the examples of a seqio mixture on disk, for training to read by number."""

import importlib

from mlm.data import cache
from mlm.tokenizers import load


def cache_mixture(
  *,
  mixture: str,
  module: str,
  split: str,
  tokenizer: str,
  languages: dict,
  output: str,
) -> None:
  """Runs the tasks of a mixture once and keeps their examples and its rates.

  Args:
    mixture: name of a seqio mixture or task.
    module: to import, which registers it.
    split: of the tasks.
    tokenizer: directory of the tokenizer that the tasks use.
    languages: task -> code, for tasks whose name does not end in one.
    output: directory of the cache; tasks that are in it are kept.
  """
  importlib.import_module(module)
  written = cache.write_mixture(
    name=mixture,
    split=split,
    output=output,
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
    languages=languages,
  )
  width = 2 + max(map(len, written))
  columns = ("language", "rate (examples)", "examples", "tokens", "characters")
  print(f"{'task':<{width}}" + "".join(f"{c:>17}" for c in columns))
  for task, (rate, index) in written.items():
    characters = index["characters"]
    cells = (
      index["language"],
      f"{rate:.4%}",
      f"{index['examples']:,}",
      f"{sum(index['tokens'].values()):,}",
      "not kept" if characters is None else f"{characters:,}",
    )
    print(f"{task:<{width}}" + "".join(f"{cell:>17}" for cell in cells))
  print(f"Examples: {output}")
