"""Chunks of text whose language is declared: reading, cleaning, comparing.

A chunk is a sentence, verse or segment, a row with text, language (ISO 639-3
and script, "swh_Latn"; any language, in the registry or not) and corpus, the
name of the data set that it comes from. In a pipeline it is a page
(`beam_pipelines.pages`) with a corpus.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_pipelines import row_files
from mlm.text import scripts

_LABEL = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_FIELDS = ("text", "language", "corpus")
_MIN_SCRIPT_SHARE = 0.5


def chunk_of_row(row: dict, chunk_id: str) -> dict:
  """A chunk, or a dropped one that says what is wrong with its row."""
  chunk = {
    "id": chunk_id,
    "url": chunk_id,
    "timestamp": "",
    "text": "",
    "language": None,
    "language_probability": 1.0,
    "corpus": "",
    "drop": None,
  }
  fields = {name: row.get(name) for name in _FIELDS}
  if not all(isinstance(value, str) for value in fields.values()):
    return {**chunk, "drop": ["read", "missing_field"]}
  if not _LABEL.fullmatch(fields["language"]):
    return {**chunk, "drop": ["read", "bad_language"]}
  return {**chunk, **fields, "url": f"{fields['corpus']}#{chunk_id}"}


def read_chunks(number: int, path: str) -> Iterator[dict]:
  """The chunks of a file of JSON lines or Parquet, the number-th input."""
  rows = row_files.read_rows(path, _FIELDS)
  for position, (row, wrong) in enumerate(rows):
    chunk = chunk_of_row(row, f"{number:07d}.{position:012d}")
    yield {**chunk, "drop": ["read", wrong]} if wrong else chunk


def normal_form(text: str) -> str:
  """Letters, marks and digits alone: what SF5 compares."""
  return "".join(c for c in text if unicodedata.category(c)[0] in "LMN")


def _keyed(chunk):
  form = normal_form(chunk["text"])
  yield (chunk["language"], hashlib.md5(form.encode()).digest()), chunk


def _first_of(element):
  """The chunk with the smallest id; reads the chunks twice, holds none."""
  _, chunks = element
  first = min(chunk["id"] for chunk in chunks)
  for chunk in chunks:
    if chunk["id"] == first:
      yield chunk
    else:
      Metrics.counter("sf5", "duplicate").inc()
      yield beam.pvalue.TaggedOutput(
        "dropped", {**chunk, "drop": ["sf5", "duplicate"]}
      )


def deduplicate(chunks):
  """Chunks -> (the first of equal ones within a language, the others)."""
  outputs = (
    chunks
    | "normal form" >> beam.FlatMap(_keyed)
    | "group equal chunks" >> beam.GroupByKey()
    | "sf5" >> beam.FlatMap(_first_of).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped


def in_its_script(chunk: dict) -> bool:
  """Whether half of the letters or more are in the declared script."""
  script = chunk["language"].split("_")[1]
  return scripts.script_share(chunk["text"], script) >= _MIN_SCRIPT_SHARE


def mismatched_corpora(chunks):
  """(corpus, language) of which most chunks are not in the declared script."""
  return (
    chunks
    | "script"
    >> beam.Map(
      lambda c: ((c["corpus"], c["language"]), (1, int(in_its_script(c))))
    )
    | "count scripts"
    >> beam.CombinePerKey(beam.combiners.TupleCombineFn(sum, sum))
    | "mismatched" >> beam.Filter(lambda row: 2 * row[1][1] < row[1][0])
    | "which" >> beam.Keys()
  )


def drop_listed(chunks, listed, stage, reason, key_of):
  """(kept, dropped): chunks whose key is in a small PCollection are dropped."""

  def split(chunk, keys):
    if key_of(chunk) in keys:
      Metrics.counter(stage, reason).inc()
      yield beam.pvalue.TaggedOutput(
        "dropped", {**chunk, "drop": [stage, reason]}
      )
    else:
      yield chunk

  keys = listed | f"{stage} set" >> beam.combiners.ToList()
  outputs = chunks | stage >> beam.FlatMap(
    split, beam.pvalue.AsSingleton(keys | f"{stage} as set" >> beam.Map(set))
  ).with_outputs("dropped", main="kept")
  return outputs.kept, outputs.dropped
