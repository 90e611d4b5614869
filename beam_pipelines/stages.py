"""Collections of rows kept on disk between the steps of a long pipeline.

A step that finished leaves a marker; the next run reads what it wrote instead
of doing it again.
"""

import json
from collections.abc import Callable

import apache_beam as beam

from beam_pipelines import corpus

_CODER = beam.coders.StrUtf8Coder()


class Stages:
  """Steps of one run, in a directory of files."""

  def __init__(self, directory: str, make_pipeline: Callable):
    """Args: where the files are; () -> beam.Pipeline, used for each step."""
    self._directory = directory
    self._make_pipeline = make_pipeline

  def _path(self, name: str) -> str:
    return corpus.join(self._directory, name)

  def run(self, name: str, build: Callable) -> None:
    """Writes the rows of `build(pipeline)`, JSON values, unless that is done."""
    marker = self._path(f"{name}.done.json")
    if corpus.exists(marker):
      return
    with self._make_pipeline() as pipeline:
      self.write(name, build(pipeline))
    corpus.write_json(marker, {"stage": name})

  def write(self, name: str, rows) -> None:
    """Writes rows as a part of a pipeline that does other work too."""
    _ = (
      rows
      | f"{name} to JSON" >> beam.Map(json.dumps, ensure_ascii=False)
      | f"write {name}"
      >> beam.io.WriteToText(
        self._path(f"{name}.rows"), file_name_suffix=".jsonl.gz", coder=_CODER
      )
    )

  def read(self, pipeline, name: str):
    """The rows of a finished step."""
    return (
      pipeline
      | f"read {name}"
      >> beam.io.ReadFromText(self._path(f"{name}.rows-*.jsonl.gz"))
      | f"{name} from JSON" >> beam.Map(json.loads)
    )

  def rows(self, name: str) -> list:
    """The rows of a finished step that are few enough for one machine."""
    return sorted(
      json.loads(line)
      for path, _ in corpus.match(self._path(f"{name}.rows-*.jsonl.gz"))
      for line in corpus.read_lines(path)
    )
