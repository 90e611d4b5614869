"""The mC4 corpus: `python -m beam_pipelines.mc4 --input=FILES --output=DIR`.

Steps, in order: read, extract, langid (cld3), page_length, url_dedup,
line_length, line_dedup, bad_words, write. Languages are labelled early so that
every drop is counted by language.

Without --runner everything runs in this process, without a network; add
`--direct_num_workers=N --direct_running_mode=multi_processing` for N processes.
Killed and started again with the same command, it goes on from the parts of
the input that were read; finished, it returns at once.

Source: Xue et al. 2021 (mT5), section 3.1, and the C4 builder of TensorFlow
Datasets, whose order and details are followed where the paper is silent.
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import sys
import time
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.io import filesystem, filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import fn_api_runner

from beam_pipelines import corpus, read, write
from beam_pipelines import pages as pages_lib
from beam_pipelines.dedup import lines as line_dedup
from beam_pipelines.dedup import urls as url_dedup
from beam_pipelines.filters import apply, bad_words, language, length
from mlm.languages import registry
from mlm.text import normalize

_THRESHOLDS = pathlib.Path(__file__).parent / "thresholds" / "mc4.json"
_PART_BYTES = 1 << 22  # of a compressed crawl file: 5-10 seconds of work
# What decides which text comes out.
_LIBRARIES = ("fastwarc", "resiliparse", "cld3-py")


def build(staged, *, output: str, settings: dict, word_lists: dict):
  """Staged pages -> a written corpus.

  Args:
    staged: PCollection of paths of staged pages.
    output: directory of the corpus.
    settings: of `_settings`.
    word_lists: {ISO 639-3 code: bad words}.

  Returns:
    Rows of counts of the shards, and of the decisions.
  """

  def language_reason(page):
    return language.language(
      page["text"],
      page["language"],
      page["language_probability"],
      languages=settings["languages"],
      min_probability=settings["min_language_probability"],
      min_script_share=settings["min_script_share"],
    )

  def page_length_reason(page):
    return length.page_length(
      page["text"], max_characters=settings["max_page_characters"]
    )

  def line_length_reason(page):
    return length.long_lines(
      page["text"],
      min_lines=settings["min_long_lines"],
      min_characters=settings["min_long_line_characters"],
    )

  patterns = {
    code: bad_words.pattern_of(code, words)
    for code, words in word_lists.items()
  }

  def bad_words_reason(page):
    return bad_words.bad_words(
      page["text"],
      patterns.get(registry.get(page["language"]).iso639_3),
      url=normalize.normalize_url(page["url"]),
      keep_one_in=settings["bad_words_keep_one_in"],
    )

  pages = staged | "staged pages" >> beam.FlatMap(pages_lib.read_staged)
  unread = pages | "dropped on reading" >> beam.Filter(lambda p: p["drop"])
  pages = pages | "read" >> beam.Filter(lambda p: not p["drop"])
  steps = [
    lambda p: apply.apply(p, "langid", language_reason),
    lambda p: apply.apply(p, "page_length", page_length_reason),
    url_dedup.deduplicate,
    lambda p: apply.apply(p, "line_length", line_length_reason),
    line_dedup.deduplicate,
  ]
  if patterns:
    steps.append(lambda p: apply.apply(p, "bad_words", bad_words_reason))
  dropped = [unread]
  for step in steps:
    pages, gone = step(pages)
    dropped.append(gone)
  dropped = dropped | "dropped" >> beam.Flatten()

  written = write.write_shards(
    pages,
    output,
    num_shards=settings["shards"],
    validation_modulus=settings["validation_modulus"],
  )
  decided = write.write_decisions(
    (pages, dropped) | "kept and dropped" >> beam.Flatten(),
    output,
    num_shards=settings["shards"],
  )
  write.write_samples(dropped, output)
  return written, decided


def _stages(settings: dict) -> list[str]:
  """Names of the stages that `build` runs, after reading and extraction."""
  stages = ["read", "extract", "langid", "page_length", url_dedup.STAGE]
  stages += ["line_length", line_dedup.STAGE]
  return stages + (["bad_words"] if settings["bad_words"] else [])


class _Parser(argparse.ArgumentParser):
  """Raises instead of exiting, so that every mistake is told in one line."""

  def error(self, message):
    raise corpus.InputError(f"{message}; --help lists the options")


def _parse(arguments: Sequence[str]):
  parser = _Parser(
    prog="python -m beam_pipelines.mc4",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="Further options are Apache Beam's.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--input", required=True, help="WARC or WET files: patterns, by comma")
  add("--output", required=True, help="directory of the corpus")
  add("--preset", default="lecture", help="thresholds: lecture or tfds")
  add(
    "--min_language_probability",
    type=float,
    help="of cld3, instead of the preset's",
  )
  add(
    "--validation_modulus",
    type=int,
    required=True,
    help="one page in this many is validation (mC4: 1000)",
  )
  add("--shards", type=int, default=1, help="files a language and split")
  add("--languages", help="codes to keep, by comma (default: all of cld3)")
  add("--bad_words", help="directory of word lists named by language (en, …)")
  options, rest = parser.parse_known_args(arguments)
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
  return options, rest


def load_thresholds(preset: str, min_language_probability: float | None):
  """Thresholds of a preset of thresholds/mc4.json, checked.

  Raises:
    InputError: if there is no such preset or a threshold is out of range.
  """
  presets = json.loads(_THRESHOLDS.read_text())
  if preset not in presets:
    raise corpus.InputError(
      f"unknown --preset {preset!r}; choose one of {', '.join(presets)}"
    )
  thresholds = presets[preset]
  if min_language_probability is not None:
    thresholds["min_language_probability"] = min_language_probability
    thresholds["sources"]["min_language_probability"] = "command line"
  for name in ("min_language_probability", "min_script_share"):
    if not 0 <= thresholds[name] <= 1:
      raise corpus.InputError(
        f"{name} = {thresholds[name]} must be in [0, 1]; correct it"
      )
  return thresholds


def _settings(options) -> tuple[dict, dict, dict]:
  """(settings that decide the result, remarks on them, bad-word lists)."""
  thresholds = load_thresholds(options.preset, options.min_language_probability)
  remarks = {"thresholds": thresholds.pop("sources")}
  if options.validation_modulus < 2 or options.shards < 1:
    raise corpus.InputError(
      f"--validation_modulus {options.validation_modulus} must be at least 2 "
      f"and --shards {options.shards} at least 1"
    )
  languages = None
  if options.languages:
    codes = options.languages.split(",")
    languages = sorted({registry.get(code).code for code in codes})
  word_lists, skipped = {}, ()
  if options.bad_words:
    word_lists, skipped = bad_words.read_lists(options.bad_words)
    remarks["bad_words"] = {"files that name no language": skipped}
  else:
    remarks["bad_words"] = "stage skipped: no --bad_words directory given"
  settings = {
    **thresholds,
    "preset": options.preset,
    "validation_modulus": options.validation_modulus,
    "shards": options.shards,
    "languages": languages,
    "bad_words": {
      code: hashlib.sha256("\n".join(words).encode()).hexdigest()
      for code, words in word_lists.items()
    },
    "part_bytes": _PART_BYTES,
    "inputs": corpus.find_inputs(options.input),
  }
  return settings, remarks, word_lists


def _pipeline(beam_arguments: Sequence[str]) -> beam.Pipeline:
  options = pipeline_options.PipelineOptions(beam_arguments)
  runner = options.view_as(pipeline_options.StandardOptions).runner
  if runner in (None, "DirectRunner"):
    # Beam's own DirectRunner may hand over to one that it must download.
    return beam.Pipeline(fn_api_runner.FnApiRunner(), options=options)
  return beam.Pipeline(options=options)


def _spread_parts(pipeline: beam.Pipeline, settings: dict):
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


def _explain_nothing_kept(counts: dict, inputs: Sequence) -> str:
  """Why a corpus would be empty, and what to do."""
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


def run(arguments: Sequence[str]) -> dict:
  """Builds the corpus and returns its counts.

  Raises:
    ValueError: for mistakes in the arguments, or input without any page.
  """
  started = time.monotonic()
  options, beam_arguments = _parse(arguments)
  settings, remarks, word_lists = _settings(options)
  output, inputs = options.output, settings["inputs"]
  versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  manifest = {
    "pipeline": "mc4",
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
    return counts

  part_bytes = settings["part_bytes"]
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
    with _pipeline(beam_arguments) as pipeline:
      _ = _spread_parts(pipeline, settings) | "read, extract, identify" >> (
        beam.ParDo(pages_lib.StagePages(stages))
      )
  print("Filtering, deduplicating and writing", flush=True)
  lists = [corpus.join(stages, f"{name}.json") for name in ("shards", "rows")]
  with _pipeline(beam_arguments) as pipeline:
    written, decided = build(
      _spread_parts(pipeline, settings)
      | "staged files"
      >> beam.Map(lambda part: pages_lib.staged_path(stages, part)),
      output=output,
      settings=settings,
      word_lists=word_lists,
    )
    write.write_list(written, "shards", lists[0])
    write.write_list(decided, "decisions", lists[1])
  counts = corpus.count(
    "mc4", _stages(settings), *(corpus.read_json(path) for path in lists)
  )
  print(corpus.table(counts))
  if not counts["languages"]:
    raise corpus.InputError(_explain_nothing_kept(counts, inputs))
  corpus.write_json(corpus.join(output, "counts.json"), counts)
  corpus.remove(stages)
  print(f"Corpus: {output}, {time.monotonic() - started:,.0f} seconds")
  return counts


def main(arguments: Sequence[str]) -> int:
  """Exit status: 0, or 2 after one line that says what to do."""
  logging.getLogger().setLevel(logging.ERROR)
  try:
    run(arguments)
  except (ValueError, OSError, filesystem.BeamIOError) as error:
    print(f"beam_pipelines.mc4: error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  # Workers import what they run from the module, not from __main__.
  from beam_pipelines import mc4

  sys.exit(mc4.main(sys.argv[1:]))
