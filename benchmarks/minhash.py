"""Our MinHash steps alone, for benchmarks/corpus.py to time.

    python -m benchmarks.minhash INPUT_GLOB OUTPUT_DIR

INPUT_GLOB is of JSON lines with text and id (what datatrove extracted); all of
them are compared, whatever their language. Writes one page a cluster.
"""

import json
import sys

import apache_beam as beam
from apache_beam.io import fileio

from beam_pipelines import driver, row_files
from beam_pipelines import stages as stages_lib
from beam_pipelines.dedup import components, minhash

CONFIG = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)


def _pages(path):
  for row, wrong in row_files.read_rows(path, ("id", "text")):
    assert not wrong
    yield {**row, "language": "und"}


def main(pattern: str, output: str) -> None:
  def pages(pipeline):
    return (
      pipeline
      | "files" >> fileio.MatchFiles(pattern)
      | "paths" >> beam.Map(lambda match: match.path)
      | "pages" >> beam.FlatMap(_pages)
    )

  make = driver.pipeline_maker([])
  stages = stages_lib.Stages(f"{output}/stages", make)
  stars = components.solve(
    stages,
    "pairs",
    lambda p: minhash.similar_pairs(pages(p), CONFIG, num_parts=1),
  )
  with make() as pipeline:
    kept, _ = minhash.keep_one_a_cluster(
      pages(pipeline),
      stages.read(pipeline, stars) | "edges" >> beam.Map(tuple),
    )
    _ = (
      kept
      | "to JSON" >> beam.Map(json.dumps, ensure_ascii=False)
      | "write"
      >> beam.io.WriteToText(f"{output}/unique", file_name_suffix=".jsonl.gz")
    )


if __name__ == "__main__":
  main(*sys.argv[1:])
