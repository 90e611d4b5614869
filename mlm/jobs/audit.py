"""Job: the HTML report of a corpus."""

import os

from mlm.evaluation import corpus_report


def audit(*, corpus: str, truth: str, tokenizer: str, output: str) -> None:
  """Writes audit.html: sizes, what each filter took, confusions, examples.

  Args:
    corpus: directory of a finished corpus.
    truth: table of url and language, or "" if the truth is not known.
    tokenizer: directory of a tokenizer trained on the corpus, whose tokens are
      shown; "" for words.
    output: directory for audit.html.
  """
  path = os.path.join(output, "audit.html")
  corpus_report.write_report(
    corpus=corpus, truth=truth, tokenizer=tokenizer, path=path
  )
  print(f"Report: {path}")
