"""Job: a report card of tokenizers, by language."""

import os

from mlm.evaluation import tokenizer_report


def compare_tokenizers(*, tokenizers: dict, parallel: str, output: str) -> None:
  """Writes tokenizers.html: premium, fertility, losses, overlap by language.

  Args:
    tokenizers: name -> directory of ours, SentencePiece .model, Hugging Face
      tokenizer.json or .tiktoken file.
    parallel: directory of line-aligned texts, one a language, English too
      (NTREX-128: src.eng.txt.gz, ref.swa.txt.gz, …).
    output: directory for tokenizers.html and tokenizers.tsv.
  """
  tokenizer_report.write_report(
    tokenizers=tokenizers, parallel=parallel, directory=output
  )
  print(f"Report: {os.path.join(output, 'tokenizers.html')}")
