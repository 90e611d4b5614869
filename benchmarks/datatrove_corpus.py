"""FineWeb2's steps by datatrove, for benchmarks/corpus.py to run and time.

Runs in an environment that has datatrove[io,processing] with its readers'
extras, and resiliparse for --extractor=resiliparse; imports nothing of ours.
Prints seconds by step as JSON.
"""

import json
import pathlib
import sys
import time

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline import extractors, filters, formatters, readers, writers
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.extractors import base


class Resiliparse(base.BaseExtractor):
  """The extractor of this project behind datatrove's interface."""

  name = "resiliparse"

  def __init__(self):
    super().__init__(timeout=10)

  def extract(self, text):
    from resiliparse.extract import html2text
    from resiliparse.parse import html

    plain = html2text.extract_plain_text(
      html.HTMLTree.parse(text),
      preserve_formatting=True,
      main_content=True,
      list_bullets=False,
      alt_texts=False,
      links=False,
      form_fields=False,
      noscript=False,
    )
    lines = (" ".join(line.split()) for line in plain.split("\n"))
    return "\n".join(line for line in lines if line)


def main(source: str, directory: str, extractor: str) -> None:
  source, work = pathlib.Path(source), pathlib.Path(directory)
  seconds = {}

  def run(name, *steps):
    started = time.monotonic()
    LocalPipelineExecutor(
      list(steps), tasks=1, workers=1, logging_dir=str(work / "logs" / name)
    ).run()
    seconds[name] = time.monotonic() - started

  def documents(folder):
    return readers.JsonlReader(str(work / folder))

  run(
    "read and extract",
    readers.WarcReader(str(source.parent), glob_pattern=source.name),
    Resiliparse() if extractor == "resiliparse" else extractors.Trafilatura(),
    writers.JsonlWriter(str(work / "extracted")),
  )
  config = minhash.MinhashConfig()  # FineWeb2's: 14 x 8, word 5-grams
  signatures, buckets, removed = (
    str(work / name) for name in ("signatures", "buckets", "removed")
  )
  started = time.monotonic()
  run(
    "signatures",
    documents("extracted"),
    minhash.MinhashDedupSignature(signatures, config),
  )
  for bucket in range(config.num_buckets):
    step = minhash.MinhashDedupBuckets(signatures, buckets, config=config)
    list(step.run(None, bucket, config.num_buckets) or ())
  run("clusters", minhash.MinhashDedupCluster(buckets, removed, config))
  run(
    "one a cluster",
    documents("extracted"),
    minhash.MinhashDedupFilter(removed),
    writers.JsonlWriter(str(work / "unique")),
  )
  seconds["minhash"] = time.monotonic() - started
  run(
    "filter and write",
    documents("unique"),
    filters.GopherRepetitionFilter(
      dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0
    ),
    filters.FineWebQualityFilter(short_line_thr=999, char_duplicates_ratio=0.1),
    filters.GopherQualityFilter(min_stop_words=0),
    formatters.FTFYFormatter(),
    formatters.PIIFormatter(),
    writers.JsonlWriter(str(work / "corpus")),
  )
  print(json.dumps(seconds))


if __name__ == "__main__":
  main(*sys.argv[1:])
