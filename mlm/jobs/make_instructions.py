"""Job: instruction records from the documents of a corpus."""

import collections
import os

from mlm.instructions import quality
from mlm.instructions import records as records_lib
from mlm.text import documents
from mlm.tokenizers import load


def make_instructions(
  *,
  corpus: str,
  tokenizer: str,
  output: str,
  tasks: list,
  max_prompt_tokens: int,
  max_response_tokens: int,
  records_per_document: int,
  seed: int,
) -> None:
  """Makes instruction records of the train and validation documents.

  Args:
    corpus: finished corpus directory.
    tokenizer: tokenizer directory, to measure lengths.
    output: directory for train.jsonl and validation.jsonl.
    tasks: of `mlm.instructions.templates.TASKS`.
    max_prompt_tokens: largest prompt, without turn markers.
    max_response_tokens: largest response, without EOS.
    records_per_document: draws a document.
    seed: of the draws.
  """
  processor = load.load(tokenizer)
  languages = documents.read_counts(corpus)["languages"]
  totals: dict = {}
  for split in documents.SPLITS:
    made: list[dict] = []
    for code, splits in languages.items():
      if not splits.get(split, {}).get("documents"):
        continue
      records, reasons = quality.keep_good(
        records_lib.make_records(
          documents.read_documents(corpus, code, split),
          tasks=tasks,
          count_tokens=lambda text: len(processor.encode(text)),
          max_prompt_tokens=max_prompt_tokens,
          max_response_tokens=max_response_tokens,
          records_per_document=records_per_document,
          seed=seed,
        )
      )
      made += records
      row = totals.setdefault(code, collections.Counter())
      row[split] += len(records)
      row.update(reasons)
    records_lib.write_records(os.path.join(output, f"{split}.jsonl"), made)
  print(f"{'language':<12}{'train':>8}{'validation':>12}  dropped")
  for code, row in totals.items():
    reasons = {k: n for k, n in row.items() if k not in documents.SPLITS}
    told = ", ".join(f"{name} {n}" for name, n in sorted(reasons.items()))
    print(f"{code:<12}{row['train']:>8,}{row['validation']:>12,}  {told}")
  print(f"Records: {output}")
