"""The FineWeb2 corpus: `python -m beam_pipelines.fineweb2 --input=FILES …`.

Steps, in order: read, extract, langid (cld3 over a threshold that each language
sets itself, its script, and CLD2 as a second opinion), minhash (near-duplicates
by language, over all inputs), gopher_repetition, fineweb_quality,
gopher_quality, repair of encodings, masking of addresses, write. Limits come
from `thresholds/fineweb2`, a file for each language; `beam_pipelines.derive_limits`
derives them.

Every step that finished stays on disk until the end: killed and started again
with the same command, the program goes on from there.

Source: Penedo et al. 2025 (FineWeb2) and its published pipeline, with cld3 and
CLD2 in the place of GlotLID, which no package carries.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_pipelines import corpus, driver, encoding, pii, words, write
from beam_pipelines import pages as pages_lib
from beam_pipelines import stages as stages_lib
from beam_pipelines.dedup import components, minhash
from beam_pipelines.filters import apply, distribution, language, quality
from mlm.languages import registry

THRESHOLDS = pathlib.Path(__file__).parent / "thresholds" / "fineweb2"
_MINHASH = minhash.Config(ngram=5, buckets=14, hashes=8, seed=1)
_CONFIDENCE = (0.3, 0.9)  # bounds of a language's threshold
_MIN_SCRIPT_SHARE = 0.2
_LIBRARIES = ("pycld2", "icu4py", "xxhash", "ftfy", "regex")
_STAGES = (
  "read",
  "extract",
  "langid",
  "minhash",
  "gopher_repetition",
  "fineweb_quality",
  "gopher_quality",
)


def confidence_threshold(probabilities: distribution.Distribution) -> float:
  """Median less standard deviation, kept between 0.3 and 0.9."""
  low, high = _CONFIDENCE
  wanted = probabilities.quantile(0.5) - probabilities.standard_deviation
  return max(low, min(high, wanted))


def confidence_thresholds(rows: Sequence) -> dict[str, float]:
  """{code: threshold} of rows [code, probability, pages]."""
  counts: dict = {}
  for code, probability, number in rows:
    counts.setdefault(code, {})[probability] = number
  return {
    code: confidence_threshold(distribution.Distribution.of(of_language))
    for code, of_language in sorted(counts.items())
  }


def count_probabilities(pages):
  """Pages -> [code, probability to four digits, pages]."""
  return (
    pages
    | "identified" >> beam.Filter(lambda page: page["language"])
    | "probability"
    >> beam.Map(
      lambda page: (page["language"], round(page["language_probability"], 4))
    )
    | "count probabilities" >> beam.combiners.Count.PerElement()
    | "flat" >> beam.Map(lambda row: [*row[0], row[1]])
  )


def identified(pages, *, settings: dict, thresholds: dict):
  """Pages whose language is sure, wanted, in its script and seconded."""

  def reason(page):
    return language.language(
      page,
      languages=settings["languages"],
      min_probability=thresholds.get(page["language"], 0.0),
      min_script_share=settings["min_script_share"],
    )

  return apply.apply(pages, "langid", reason)


def drop_by_quality(page: dict, limits: dict) -> tuple[str, str] | None:
  """(stage, reason) of the first quality limit that a page breaks."""
  text, code = page["text"], page["language"]
  of_language = limits.get(code, limits["default"])
  tokens = words.words(text, code)
  measures = (
    ("gopher_repetition", quality.gopher_repetition(text, tokens)),
    ("fineweb_quality", quality.fineweb_quality(text, tokens)),
    (
      "gopher_quality",
      quality.gopher_quality(text, tokens, of_language["stop_words"]),
    ),
  )
  for stage, values in measures:
    if reason := quality.outside(values, of_language[stage]):
      return stage, reason
  return None


def repair(page: dict) -> dict:
  """Encoding repaired, table bars made line breaks, addresses masked."""
  text = encoding.repair(page["text"]).replace("|", "\n")
  text = "\n".join(line for line in text.split("\n") if line.strip())
  text, emails, addresses = pii.mask(text)
  Metrics.counter("pii", "email").inc(emails)
  Metrics.counter("pii", "ip_address").inc(addresses)
  return {**page, "text": text}


def copies(cluster_size: int) -> int:
  """How often FineWeb2 repeats a page that stood for a cluster of this size."""
  for most, number in ((2, cluster_size), (4, 3), (99, 5), (999, 8)):
    if cluster_size <= most:
      return number
  return 1


def _settings(options) -> tuple[dict, driver.Inputs]:
  directory = pathlib.Path(options.thresholds)
  limits = {
    path.stem: json.loads(path.read_text())
    for path in sorted(directory.glob("*.json"))
  }
  if "default" not in limits:
    raise corpus.InputError(
      f"--thresholds {directory} has no default.json; give a directory that "
      "beam_pipelines.derive_limits wrote"
    )
  for code in limits.keys() - {"default"}:
    registry.get(code)
  settings, inputs = driver.crawl_settings(options)
  return {
    **settings,
    "min_script_share": _MIN_SCRIPT_SHARE,
    "minhash": dataclasses.asdict(_MINHASH),
    "confidence_bounds": _CONFIDENCE,
    "limits": limits,
    "rehydrate": options.rehydrate,
  }, inputs


def run(arguments: Sequence[str]) -> dict:
  """Builds the corpus and returns its counts.

  Raises:
    ValueError: for mistakes in the arguments, or input without any page.
  """
  started = time.monotonic()
  parser = driver.Parser("fineweb2", __doc__)
  parser.add_crawl_options()
  parser.add_argument(
    "--thresholds", default=str(THRESHOLDS), help="directory of limits"
  )
  parser.add_argument(
    "--rehydrate",
    action="store_true",
    help="repeat a page by the size of its cluster, as FineWeb2's training does",
  )
  options, beam_arguments = parser.parse(arguments)
  (settings, inputs), output = _settings(options), options.output
  counts, directory = driver.start(
    output, "fineweb2", settings, inputs, {}, _LIBRARIES
  )
  if counts is not None:
    return counts

  make = driver.pipeline_maker(beam_arguments, options.graphs)
  driver.tell_parts(directory, settings, inputs)
  stages = stages_lib.Stages(directory, make)
  stages.run(
    "probabilities",
    lambda p: count_probabilities(
      driver.stage_pages(p, output, directory, settings, second_opinion=True)
      | "staged pages" >> beam.FlatMap(pages_lib.read_staged)
    ),
  )
  thresholds = confidence_thresholds(stages.rows("probabilities"))
  if without := sorted(thresholds.keys() - settings["limits"].keys()):
    print(
      f"English's limits filter {len(without)} languages that have no file in "
      f"--thresholds: {', '.join(without)}. beam_pipelines.derive_limits makes "
      "files from a corpus",
      flush=True,
    )

  def sure(pipeline):
    pages, unread = driver.staged_pages(pipeline, output, directory, settings)
    pages, unsure = identified(pages, settings=settings, thresholds=thresholds)
    return pages, (unread, unsure) | "read and identified" >> beam.Flatten()

  print("Near-duplicates", flush=True)
  stars = components.solve(
    stages,
    "pairs",
    lambda p: minhash.similar_pairs(
      sure(p)[0], _MINHASH, num_parts=driver.num_key_parts(settings)
    ),
  )

  print("Filtering and writing", flush=True)
  with make() as pipeline:
    pages, unsure = sure(pipeline)
    pages, duplicates = minhash.keep_one_a_cluster(
      pages, stages.read(pipeline, stars) | "pairs" >> beam.Map(tuple)
    )
    kept, poor = apply.apply_several(
      pages, "quality", lambda page: drop_by_quality(page, settings["limits"])
    )
    kept = kept | "repair" >> beam.Map(repair)
    if settings["rehydrate"]:
      kept = kept | "rehydrate" >> beam.Map(
        lambda page: {**page, "copies": copies(page["cluster_size"])}
      )
    write.write_corpus(
      kept,
      (unsure, duplicates, poor) | "all dropped" >> beam.Flatten(),
      output,
      stages=directory,
      settings=settings,
    )
  return driver.finish(
    output,
    directory,
    "fineweb2",
    _STAGES,
    settings,
    started,
    explain=lambda c: driver.explain_empty_crawl(c, inputs),
  )


def main(arguments: Sequence[str]) -> int:
  return driver.main("fineweb2", run, arguments)


if __name__ == "__main__":
  # Workers import what they run from the module, not from __main__.
  from beam_pipelines import fineweb2

  sys.exit(fineweb2.main(sys.argv[1:]))
