"""Job: instruction records as tokens on disk, for training to read by number."""

import os

import tqdm

from mlm.data import example_store, prompts, task_names
from mlm.instructions import records as records_lib
from mlm.tokenizers import load


def cache_records(*, sources: dict, tokenizer: str, output: str) -> None:
  """Tokenizes the training records of every source and language, once.

  The task of a source and a language is `source.code`.

  Args:
    sources: name -> directory with train.jsonl.
    tokenizer: tokenizer directory.
    output: directory of the cache; tasks that are in it are kept.
  """
  processor = load.load(tokenizer)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  for source, directory in sources.items():
    by_language: dict[str, list[dict]] = {}
    path = os.path.join(directory, "train.jsonl")
    for record in records_lib.read_records(path):
      by_language.setdefault(record["language"], []).append(record)
    if not by_language:
      raise ValueError(f"no records in {path}; leave the source out")
    for code, records in tqdm.tqdm(by_language.items(), desc=source):
      task = task_names.task_name(source, code)
      example_store.write_task(
        (_example(record, processor) for record in records),
        output=output,
        task=task,
        split="train",
        features=("inputs", "targets"),
        language=task_names.checked_language(task),
        tokenizer_sha256=sha256,
      )
  print(f"Examples: {output}")


def _example(record: dict, processor) -> example_store.Example:
  tokens = {
    "inputs": prompts.prompt_ids(processor, record["prompt"]),
    "targets": prompts.response_ids(processor, record["response"]),
  }
  return tokens, len(record["prompt"]) + len(record["response"])
