"""The mC4 corpus: `python -m beam_pipelines.mc4 --input=FILES --output=DIR`.

Steps, in order: read, extract, langid (cld3), page_length, url_dedup,
line_length, line_dedup, bad_words, write. Languages are labelled early so that
every drop is counted by language. --preset=c4 is English C4: sentence_lines
instead of line_length, and its count of sentences again after line_dedup.

Without --runner everything runs in this process, without a network; add
`--direct_num_workers=N --direct_running_mode=multi_processing` for N processes.
Killed and started again with the same command, it goes on from the parts of
the input that were read; finished, it returns at once.

Source: Xue et al. 2021 (mT5), section 3.1, and the C4 builder of TensorFlow
Datasets, whose order and details are followed where the paper is silent.
"""

import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import apache_beam as beam

from beam_pipelines import corpus, driver, write
from beam_pipelines.dedup import lines as line_dedup
from beam_pipelines.dedup import urls as url_dedup
from beam_pipelines.filters import (
  apply,
  bad_words,
  language,
  length,
  sentence_lines,
)
from mlm.languages import registry
from mlm.text import normalize, segment

_THRESHOLDS = pathlib.Path(__file__).parent / "thresholds" / "mc4.json"


def build(pages, *, settings: dict, word_lists: dict):
  """The rules of mC4.

  Args:
    pages: PCollection of pages (`pages.page_of_record`).
    settings: of `_settings`.
    word_lists: {ISO 639-3 code: bad words}.

  Returns:
    (kept, dropped) pages.
  """

  def language_reason(page):
    return language.language(
      page,
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

  def few_sentences_reason(page):
    wanted = settings["sentence_lines"]["min_sentences"]
    found = len(segment.sentences(page["text"]))
    return "few_sentences" if found < wanted else None

  patterns = {
    code: bad_words.pattern_of(code, words)
    for code, words in word_lists.items()
  }

  def bad_words_reason(page):
    return bad_words.bad_words(
      page["text"],
      patterns.get(registry.get(page["language"]).iso639_3),
      url=normalize.normalize_url(page["url"]),
      filter_fraction=settings["bad_words_filter_fraction"],
    )

  steps = [
    lambda p: apply.apply(p, "langid", language_reason),
    lambda p: apply.apply(p, "page_length", page_length_reason),
    url_dedup.deduplicate,
    (
      (lambda p: sentence_lines.clean_pages(p, **settings["sentence_lines"]))
      if settings["sentence_lines"]
      else lambda p: apply.apply(p, "line_length", line_length_reason)
    ),
    lambda p: line_dedup.deduplicate(
      p, num_parts=driver.num_key_parts(settings)
    ),
  ]
  if settings["sentence_lines"]:
    steps.append(
      lambda p: apply.apply(p, "sentences_left", few_sentences_reason)
    )
  if patterns:
    steps.append(lambda p: apply.apply(p, "bad_words", bad_words_reason))
  return apply.apply_all(pages, steps)


def _stages(settings: dict) -> list[str]:
  """Names of the stages that `build` runs, after reading and extraction."""
  stages = ["read", "extract", "langid", "page_length", url_dedup.STAGE]
  if settings["sentence_lines"]:
    stages += [sentence_lines.STAGE, line_dedup.STAGE, "sentences_left"]
  else:
    stages += ["line_length", line_dedup.STAGE]
  return stages + (["bad_words"] if settings["bad_words"] else [])


def _parser() -> driver.Parser:
  parser = driver.Parser("mc4", __doc__)
  parser.add_crawl_options()
  add = parser.add_argument
  add("--preset", default="paper", help="thresholds: paper, tfds or c4")
  add(
    "--min_language_probability",
    type=float,
    help="of cld3, instead of the preset's",
  )
  add("--bad_words", help="directory of word lists named by language (en, …)")
  return parser


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


def _settings(options) -> tuple[dict, driver.Inputs, dict, dict]:
  """(settings that decide the result, files, remarks, bad-word lists)."""
  thresholds = load_thresholds(options.preset, options.min_language_probability)
  remarks = {"thresholds": thresholds.pop("sources")}
  word_lists, skipped = {}, ()
  if options.bad_words:
    word_lists, skipped = bad_words.read_lists(options.bad_words)
    remarks["bad_words"] = {"files that name no language": skipped}
  else:
    remarks["bad_words"] = "stage skipped: no --bad_words directory given"
  if options.languages and "languages" in thresholds:
    raise corpus.InputError(
      f"--languages {options.languages} with --preset={options.preset}, which "
      f"is of {', '.join(thresholds['languages'])}; leave one of them out"
    )
  settings, inputs = driver.crawl_settings(options)
  settings = {
    **settings,
    **thresholds,
    "preset": options.preset,
    "bad_words": {
      code: hashlib.sha256("\n".join(words).encode()).hexdigest()
      for code, words in word_lists.items()
    },
  }
  return settings, inputs, remarks, word_lists


def run(arguments: Sequence[str]) -> dict:
  """Builds the corpus and returns its counts.

  Raises:
    ValueError: for mistakes in the arguments, or input without any page.
  """
  started = time.monotonic()
  options, beam_arguments = _parser().parse(arguments)
  settings, inputs, remarks, word_lists = _settings(options)
  output = options.output
  counts, stages = driver.start(output, "mc4", settings, inputs, remarks)
  if counts is not None:
    return counts

  make = driver.pipeline_maker(beam_arguments, options.graphs)
  driver.tell_parts(stages, settings, inputs)
  with make() as pipeline:
    driver.stage_pages(pipeline, output, stages, settings, second_opinion=False)
  print("Filtering, deduplicating and writing", flush=True)
  with make() as pipeline:
    pages, unread = driver.staged_pages(pipeline, output, stages, settings)
    kept, dropped = build(pages, settings=settings, word_lists=word_lists)
    write.write_corpus(
      kept,
      (unread, dropped) | "all dropped" >> beam.Flatten(),
      output,
      stages=stages,
      settings=settings,
    )
  return driver.finish(
    output,
    stages,
    "mc4",
    _stages(settings),
    settings,
    started,
    explain=lambda c: driver.explain_empty_crawl(c, inputs),
  )


def main(arguments: Sequence[str]) -> int:
  return driver.main("mc4", run, arguments)


if __name__ == "__main__":
  # Workers import what they run from the module, not from __main__.
  from beam_pipelines import mc4

  sys.exit(mc4.main(sys.argv[1:]))
