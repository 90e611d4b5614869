"""What every pipeline's program does around its rules.

Options, the Beam pipeline, reading the crawl in parts, and the end: counts, the
table, errors in one line.
"""

import argparse
import importlib.metadata
import logging
import sys
import time
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import fn_api_runner

from beam_pipelines import corpus, read, write
from beam_pipelines import pages as pages_lib
from mlm.languages import registry

_PART_BYTES = 1 << 22  # of a compressed crawl file: 5-10 seconds of work
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
    add("--input", required=True, help="files: patterns, by comma")
    add("--output", required=True, help="directory of the corpus")
    add(
      "--validation_modulus",
      type=int,
      required=True,
      help="one page in this many is validation (mC4: 1000)",
    )
    add("--shards", type=int, default=1, help="files a language and split")

  def add_crawl_options(self) -> None:
    """Options of pipelines that read WARC or WET."""
    self.add_argument(
      "--languages", help="codes to keep, by comma (default: all of cld3)"
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
    if options.validation_modulus < 2 or options.shards < 1:
      raise corpus.InputError(
        f"--validation_modulus {options.validation_modulus} must be at least 2 "
        f"and --shards {options.shards} at least 1"
      )
    return options, rest


def common_settings(options) -> dict:
  """Settings that every pipeline has, checked."""
  return {
    "validation_modulus": options.validation_modulus,
    "shards": options.shards,
    "inputs": corpus.find_inputs(options.input),
  }


def crawl_settings(options) -> dict:
  """Settings of pipelines that read WARC or WET, checked."""
  languages = None
  if options.languages:
    codes = options.languages.split(",")
    languages = sorted({registry.get(code).code for code in codes})
  return {
    **common_settings(options),
    "languages": languages,
    "part_bytes": _PART_BYTES,
  }


def start(
  output: str,
  pipeline: str,
  settings: dict,
  remarks: dict,
  libraries: Sequence[str] = (),
) -> tuple[dict | None, str]:
  """(counts if the corpus is finished, directory of the stages)."""
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
  return counts, stages


def make_pipeline(beam_arguments: Sequence[str]) -> beam.Pipeline:
  options = pipeline_options.PipelineOptions(beam_arguments)
  runner = options.view_as(pipeline_options.StandardOptions).runner
  if runner in (None, "DirectRunner"):
    # Beam's own DirectRunner may hand over to one that it must download.
    return beam.Pipeline(fn_api_runner.FnApiRunner(), options=options)
  return beam.Pipeline(options=options)


def spread_parts(pipeline: beam.Pipeline, settings: dict):
  """The parts of all inputs, spread over the workers."""
  part_bytes = settings["part_bytes"]
  return (
    pipeline
    | "input files" >> beam.Create(list(enumerate(settings["inputs"])))
    | "parts"
    >> beam.FlatMap(
      lambda file: pages_lib.parts_of(file[0], *file[1], part_bytes)
    )
    | "spread parts" >> beam.Reshuffle()
  )


def stage_pages(
  stages: str,
  settings: dict,
  make: Callable[[], beam.Pipeline],
  *,
  second_opinion: bool,
) -> None:
  """Reads, extracts and identifies all inputs, but for parts done before."""
  inputs, part_bytes = settings["inputs"], settings["part_bytes"]
  num_parts = sum(
    len(pages_lib.parts_of(0, *file, part_bytes)) for file in inputs
  )
  num_done = len(corpus.match(f"{stages}/pages-*.jsonl.gz"))
  print(
    f"Reading {len(inputs)} file(s) in {num_parts} part(s)"
    + (f", {num_done} of them read before" if num_done else ""),
    flush=True,
  )
  if num_done < num_parts:
    with make() as pipeline:
      _ = spread_parts(pipeline, settings) | "read, extract, identify" >> (
        beam.ParDo(pages_lib.StagePages(stages, second_opinion=second_opinion))
      )


def staged_pages(pipeline: beam.Pipeline, stages: str, settings: dict):
  """(pages, pages dropped on reading) of a directory of staged parts."""
  pages = (
    spread_parts(pipeline, settings)
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
    started: `time.monotonic()` of the start.
    explain: counts -> why nothing was kept, and what to do.

  Raises:
    InputError: if the corpus is empty.
  """
  counts = corpus.count(pipeline, names, *write.read_lists(stages))
  print(corpus.table(counts))
  if not counts["languages"]:
    raise corpus.InputError(explain(counts))
  corpus.write_json(corpus.join(output, "counts.json"), counts)
  corpus.remove(stages)
  print(f"Corpus: {output}, {time.monotonic() - started:,.0f} seconds")
  return counts


def explain_empty_crawl(counts: dict, inputs: Sequence) -> str:
  """Why a corpus of a crawl would be empty, and what to do."""
  funnel = counts["funnel"].values()
  if sum(f["extract"]["kept"] for f in funnel):
    return (
      "no page passed the rules; the table above says why: give more or longer "
      "pages, or other --languages or thresholds"
    )
  path, size = inputs[0]
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
