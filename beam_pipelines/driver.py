"""What every pipeline's program does around its rules.

Options, the Beam pipeline, reading the crawl in parts, and the end: counts, the
table, errors in one line.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import fn_api_runner
from apache_beam.transforms import environments
from google.protobuf import json_format

from beam_pipelines import commoncrawl, corpus, formats, read, row_files, write
from beam_pipelines import pages as pages_lib
from mlm.languages import registry

_INPUTS = "inputs.tsv"
_PART_BYTES = 1 << 22  # of a compressed crawl file: 5-10 seconds of work
_MAX_PARTS = 1 << 16  # of large inputs, whose parts are as large as needed
_BYTES_A_KEY_PART = 1 << 36
_MAX_KEY_PARTS = 64
# What decides which text comes out of every pipeline.
_LIBRARIES = ("fastwarc", "resiliparse", "cld3-py")


class Parser(argparse.ArgumentParser):
  """The options of every pipeline; mistakes are raised as InputError."""

  def __init__(self, name: str, description: str):
    super().__init__(
      prog=f"python -m beam_pipelines.{name}",
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog="Further options are Apache Beam's.",
      allow_abbrev=False,
    )
    add = self.add_argument
    add("--input", help="files: patterns, by comma")
    add("--output", required=True, help="directory of the corpus")
    add(
      "--validation_modulus",
      type=int,
      required=True,
      help="one page in this many is validation (mC4: 1000)",
    )
    add(
      "--shard_megabytes",
      type=float,
      default=256,
      help="text in a file before compression; a worker holds one in memory",
    )
    add(
      "--format",
      default="jsonl.gz",
      choices=formats.FORMATS,
      help="of the corpus; the training jobs read jsonl.gz",
    )
    add(
      "--graphs",
      help="directory for the graph of every Beam job, as a runner is sent it",
    )

  def add_crawl_options(self) -> None:
    """Options of pipelines that read pages."""
    add = self.add_argument
    add("--languages", help="codes to keep, by comma (default: all of cld3)")
    add("--crawl", help="instead of --input: CC-MAIN-2024-10, …, by comma")
    add("--crawl_kind", default="wet", choices=commoncrawl.KINDS)
    add(
      "--crawl_root",
      default=commoncrawl.ROOT,
      help="bucket, or a directory that mirrors it",
    )
    add(
      "--partial_crawl",
      action="store_true",
      help="the mirror has a part of the files; take those",
    )

  def error(self, message):
    raise corpus.InputError(f"{message}; --help lists the options")

  def parse(self, arguments: Sequence[str]):
    """(options, arguments that are Beam's)."""
    options, rest = self.parse_known_args(arguments)
    # Beam discards what it does not know, and a misspelt option with it.
    known = pipeline_options.PipelineOptions([]).get_all_options()
    given = pipeline_options.PipelineOptions(rest).get_all_options(
      retain_unknown_options=True
    )
    unknown = sorted(set(given) - set(known))
    unknown += [argument for argument in rest[:1] if argument[:2] != "--"]
    if unknown:
      hint = corpus.nearest(unknown[0], [*vars(options), *known])
      raise corpus.InputError(f"unknown option {unknown[0]!r}{hint}")
    if options.validation_modulus < 2 or not options.shard_megabytes > 0:
      raise corpus.InputError(
        f"--validation_modulus {options.validation_modulus} must be at least 2 "
        f"and --shard_megabytes {options.shard_megabytes} above 0"
      )
    if bool(options.input) == bool(getattr(options, "crawl", None)):
      other = " or --crawl" if hasattr(options, "crawl") else ""
      raise corpus.InputError(f"give --input{other}, and one only")
    return options, rest


class Inputs(NamedTuple):
  """The files to read; small in the manifest, listed in a file of their own."""

  files: list[tuple[str, int]]  # path, bytes

  @property
  def size(self) -> int:
    return sum(size for _, size in self.files)

  def summary(self) -> dict:
    """What stands for the list in the manifest."""
    lines = "".join(f"{size}\t{path}\n" for path, size in self.files)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return {"files": len(self.files), "bytes": self.size, "sha256": digest}


def common_settings(options) -> tuple[dict, Inputs]:
  """Settings that every pipeline has, checked, and the files to read."""
  if options.input:
    inputs = Inputs(corpus.find_inputs(options.input))
  else:
    inputs = Inputs(
      commoncrawl.find(
        options.crawl.split(","),
        options.crawl_kind,
        options.crawl_root,
        partial=options.partial_crawl,
      )
    )
  return {
    "validation_modulus": options.validation_modulus,
    "shard_bytes": int(options.shard_megabytes * (1 << 20)),
    "format": options.format,
    "inputs": inputs.summary(),
  }, inputs


def crawl_settings(options) -> tuple[dict, Inputs]:
  """Settings of pipelines that read pages, checked, and the files to read."""
  languages = None
  if options.languages:
    codes = options.languages.split(",")
    languages = sorted({registry.get(code).code for code in codes})
  settings, inputs = common_settings(options)
  return {
    **settings,
    "languages": languages,
    "part_bytes": max(_PART_BYTES, inputs.size // _MAX_PARTS),
  }, inputs


def num_key_parts(settings: dict) -> int:
  """Over how many groups the members of one key are spread."""
  wanted = 1 + settings["inputs"]["bytes"] // _BYTES_A_KEY_PART
  return min(_MAX_KEY_PARTS, wanted)


def start(
  output: str,
  pipeline: str,
  settings: dict,
  inputs: Inputs,
  remarks: dict,
  libraries: Sequence[str] = (),
) -> tuple[dict | None, str]:
  """(counts if the corpus is finished, directory of the stages).

  Writes manifest.json and inputs.tsv: number, bytes and path of every file.
  """
  versions = {
    name: importlib.metadata.version(name) for name in (*_LIBRARIES, *libraries)
  }
  manifest = {
    "pipeline": pipeline,
    "settings": settings,
    "remarks": remarks,
    "versions": versions,
    "beam": beam.__version__,
  }
  counts = corpus.claim(output, manifest)
  stages = corpus.join(output, "stages")
  if counts is not None:
    corpus.remove(stages)  # if it was killed after the last file
    print(f"The corpus in {output} is finished already; nothing to do.")
  elif not corpus.exists(path := corpus.join(output, _INPUTS)):
    rows = [f"{n}\t{s}\t{p}" for n, (p, s) in enumerate(inputs.files)]
    write.write_lines(rows, path)
  return counts, stages


class _Pipeline(beam.Pipeline):
  """A pipeline that leaves its graph in a file when it starts."""

  def __init__(self, graph: str | None, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self._graph = graph

  def run(self, *args, **kwargs):
    if self._graph:
      workers = self.options.view_as(pipeline_options.WorkerOptions)
      container = environments.DockerEnvironment(
        container_image=workers.sdk_container_image
      )
      proto = self.to_runner_api(default_environment=container)
      corpus.write_json(self._graph, json_format.MessageToDict(proto))
    return super().run(*args, **kwargs)


def pipeline_maker(
  beam_arguments: Sequence[str], graphs: str | None = None
) -> Callable[[], beam.Pipeline]:
  """A function that makes the next pipeline of a program.

  Args:
    beam_arguments: options of Beam.
    graphs: directory for 000.json, 001.json, …: the pipelines as JSON of
      Beam's portable form (beam_runner_api.proto), which Dataflow takes too.
  """
  options = pipeline_options.PipelineOptions(beam_arguments)
  runner = options.view_as(pipeline_options.StandardOptions).runner
  numbers = itertools.count()

  def make():
    graph = graphs and corpus.join(graphs, f"{next(numbers):03d}.json")
    if runner in (None, "DirectRunner"):
      # Beam's own DirectRunner may hand over to one that it must download.
      return _Pipeline(graph, fn_api_runner.FnApiRunner(), options=options)
    return _Pipeline(graph, options=options)

  return make


def _read_inputs(path: str) -> Iterator[tuple[int, str, int]]:
  """(number, path, bytes) of every file to read."""
  for line in corpus.read_lines(path):
    number, size, name = line.split("\t", 2)
    yield int(number), name, int(size)


def spread_files(pipeline: beam.Pipeline, output: str):
  """(number, path, bytes) of the files to read, spread over the workers."""
  return (
    pipeline
    # The list comes from its file: a graph of a million names would be refused.
    | "list of inputs" >> beam.Create([corpus.join(output, _INPUTS)])
    | "input files" >> beam.FlatMap(_read_inputs)
    | "spread files" >> beam.Reshuffle()
  )


def spread_parts(pipeline: beam.Pipeline, output: str, settings: dict):
  """The parts of all inputs, spread over the workers."""
  part_bytes = settings["part_bytes"]
  return (
    spread_files(pipeline, output)
    | "parts" >> beam.FlatMap(lambda f: pages_lib.parts_of(*f, part_bytes))
    | "spread parts" >> beam.Reshuffle()
  )


def tell_parts(stages: str, settings: dict, inputs: Inputs) -> None:
  """Prints how much there is to read, and how much was read before."""
  part_bytes = settings["part_bytes"]
  num_parts = sum(
    len(pages_lib.parts_of(0, *file, part_bytes)) for file in inputs.files
  )
  num_done = len(corpus.match(f"{stages}/pages-*.jsonl.gz"))
  print(
    f"Reading {len(inputs.files)} file(s) in {num_parts} part(s)"
    + (f", {num_done} of them read before" if num_done else ""),
    flush=True,
  )


def stage_pages(
  pipeline: beam.Pipeline,
  output: str,
  stages: str,
  settings: dict,
  *,
  second_opinion: bool,
):
  """Reads, extracts and identifies all inputs, but for parts done before.

  Returns:
    PCollection of the paths of the staged parts.
  """
  parts = spread_parts(pipeline, output, settings)
  return parts | "read, extract, identify" >> beam.ParDo(
    pages_lib.StagePages(stages, second_opinion=second_opinion)
  )


def staged_pages(
  pipeline: beam.Pipeline, output: str, stages: str, settings: dict
):
  """(pages, pages dropped on reading) of a directory of staged parts."""
  pages = (
    spread_parts(pipeline, output, settings)
    | "staged files"
    >> beam.Map(lambda part: pages_lib.staged_path(stages, part))
    | "staged pages" >> beam.FlatMap(pages_lib.read_staged)
  )
  unread = pages | "dropped on reading" >> beam.Filter(lambda p: p["drop"])
  return pages | "read" >> beam.Filter(lambda p: not p["drop"]), unread


def finish(
  output: str,
  stages: str,
  pipeline: str,
  names: Sequence[str],
  settings: dict,
  started: float,
  *,
  explain: Callable[[dict], str],
) -> dict:
  """Counts what was written, prints the table and clears the stages.

  Args:
    output: directory of the corpus.
    stages: directory of its stages.
    pipeline: its name.
    names: of its stages, in order.
    settings: of the run.
    started: `time.monotonic()` of the start.
    explain: counts -> why nothing was kept, and what to do.

  Raises:
    InputError: if the corpus is empty.
  """
  counts = {
    "format": settings["format"],
    **corpus.count(pipeline, names, *write.read_lists(stages)),
  }
  print(corpus.table(counts))
  if not counts["languages"]:
    raise corpus.InputError(explain(counts))
  corpus.write_json(corpus.join(output, "counts.json"), counts)
  corpus.remove(stages)
  print(f"Corpus: {output}, {time.monotonic() - started:,.0f} seconds")
  return counts


def explain_empty_crawl(counts: dict, inputs: Inputs) -> str:
  """Why a corpus of a crawl would be empty, and what to do."""
  funnel = counts["funnel"].values()
  if sum(f["extract"]["kept"] for f in funnel):
    return (
      "no page passed the rules; the table above says why: give more or longer "
      "pages, or other --languages or thresholds"
    )
  path, size = inputs.files[0]
  if row_files.is_row_file(path):
    return (
      f"no page of text in the input: the rows of {path} need url and text, "
      "both strings"
    )
  raw = filesystems.CompressionTypes.UNCOMPRESSED
  with filesystems.FileSystems.open(path, compression_type=raw) as stream:
    kinds = read.count_types(stream, size)
  told = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
  return (
    f"no page of text in the input: {path} holds {told or 'no'} records; give "
    "HTTP responses of HTML with status 200, or WET conversion records, in "
    "gzip files or without compression"
  )


def main(name: str, run: Callable, arguments: Sequence[str]) -> int:
  """Exit status: 0, or 2 after one line that says what to do."""
  logging.getLogger().setLevel(logging.ERROR)
  try:
    run(arguments)
  except (ValueError, OSError, filesystem.BeamIOError) as error:
    print(f"beam_pipelines.{name}: error: {error}", file=sys.stderr)
    return 2
  return 0
