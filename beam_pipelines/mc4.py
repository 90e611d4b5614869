"""The mC4 corpus: `python -m beam_pipelines.mc4 --input=FILES --output=DIR`.

Steps, in order: read, extract, langid (cld3), page_length, url_dedup,
line_length, line_dedup, bad_words, write. Languages are labelled early so that
every drop is counted by language. Unknown options are Beam's own (--runner,
--temp_location, …). Killed and started again it goes on from the input files
already staged; finished, it returns at once.

Source: Xue et al. 2021 (mT5), section 3.1, and the C4 builder of TensorFlow
Datasets, whose order and details are followed where the paper is silent.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.metrics import Metrics
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import fn_api_runner

from beam_pipelines import pages as pages_lib
from beam_pipelines import write
from beam_pipelines.dedup import lines as line_dedup
from beam_pipelines.filters import bad_words, length
from mlm.languages import registry
from mlm.text import normalize

STAGES = (
  "read",
  "extract",
  "langid",
  "page_length",
  "url_dedup",
  "line_length",
  "line_dedup",
  "bad_words",
)
_THRESHOLDS = pathlib.Path(__file__).parent / "thresholds" / "mc4.json"
_DECISION_SHARDS = 4
_SAMPLE_SIZE = 5


class InputError(ValueError):
  """A mistake of the user, told in one line before any work."""


class _Filter(beam.DoFn):
  """Applies page -> reason or None; drops go to the output "dropped"."""

  def __init__(self, stage, reason_of):
    self._stage = stage
    self._reason_of = reason_of

  def process(self, page):
    reason = self._reason_of(page)
    if reason is None:
      yield page
    else:
      Metrics.counter(self._stage, reason).inc()
      yield beam.pvalue.TaggedOutput(
        "dropped", {**page, "drop": [self._stage, reason]}
      )


def _filter(pages, stage, reason_of):
  outputs = pages | stage >> beam.ParDo(_Filter(stage, reason_of)).with_outputs(
    "dropped", main="kept"
  )
  return outputs.kept, outputs.dropped


def _newest(element):
  """Pages of one URL: all but the newest are marked as dropped."""
  _, pages = element
  ranked = sorted(pages, key=lambda p: (p["timestamp"], p["id"]), reverse=True)
  yield ranked[0]
  for page in ranked[1:]:
    yield beam.pvalue.TaggedOutput(
      "dropped", {**page, "drop": ["url_dedup", "older_copy"]}
    )


def _url_dedup(pages):
  outputs = (
    pages
    | "key by url" >> beam.Map(lambda p: (normalize.normalize_url(p["url"]), p))
    | "group by url" >> beam.GroupByKey()
    | "url_dedup" >> beam.FlatMap(_newest).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped


def _lines_of(page):
  owner = (write.url_hash(normalize.normalize_url(page["url"])), page["id"])
  for digest in line_dedup.line_hashes(page["text"]):
    yield digest, owner


def _lost_lines(element):
  digest, owners = element
  for page_id in line_dedup.lost_lines(owners):
    yield page_id, digest


def _without_lost_lines(element):
  _, joined = element
  for page in joined["pages"]:
    text, num_global, num_local = line_dedup.remove_lines(
      page["text"], set(joined["lost"])
    )
    Metrics.counter("line_dedup", "global_duplicate").inc(num_global)
    Metrics.counter("line_dedup", "local_duplicate").inc(num_local)
    if text.strip():
      yield {**page, "text": text}
    else:
      yield beam.pvalue.TaggedOutput(
        "dropped", {**page, "drop": ["line_dedup", "all_lines_duplicate"]}
      )


def _line_dedup(pages):
  lost = (
    pages
    | "lines" >> beam.FlatMap(_lines_of)
    | "group by line" >> beam.GroupByKey()
    | "lost lines" >> beam.FlatMap(_lost_lines)
  )
  by_id = pages | "key by id" >> beam.Map(lambda p: (p["id"], p))
  outputs = (
    {"pages": by_id, "lost": lost}
    | "join lines" >> beam.CoGroupByKey()
    | "line_dedup"
    >> beam.FlatMap(_without_lost_lines).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped


def _decision(page):
  stage, reason = page["drop"] or ("", "")
  return {
    "id": page["id"],
    "url": page["url"],
    "language": page["language"],
    "language_probability": page["language_probability"],
    "outcome": "dropped" if stage else "kept",
    "stage": stage,
    "reason": reason,
  }


def _sample_rank(page):
  return hashlib.sha256(page["id"].encode()).digest(), page["id"]


def _add_counts(counts):
  total = dict.fromkeys(("documents", "words", "characters", "bytes"), 0)
  for one in counts:
    for name, number in one.items():
      total[name] += number
  return total


def build(pipeline, *, staged, output, settings, patterns):
  """Adds the corpus steps to a pipeline and returns its small results.

  Args:
    pipeline: Beam pipeline.
    staged: paths of staged pages.
    output: directory to write to.
    settings: thresholds and options, a dict that can be pickled.
    patterns: bad-word pattern a language.

  Returns:
    (((language, split), counts), ((language, stage, reason), pages)) as two
    PCollections; stage and reason are "" for pages that were kept.
  """
  languages = settings["languages"]
  least = settings["min_language_probability"]

  def langid_reason(page):
    if page["language"] is None:
      return "undetermined"
    if page["language_probability"] < least:
      return "low_confidence"
    if languages is not None and page["language"] not in languages:
      return "unlisted_language"
    return None

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

  def bad_words_reason(page):
    return bad_words.bad_words(
      page["text"],
      pattern=patterns.get(page["language"]),
      url=normalize.normalize_url(page["url"]),
      keep_one_in=settings["bad_words_keep_one_in"],
    )

  everything = (
    pipeline
    | "staged files" >> beam.Create(staged)
    | "spread files" >> beam.Reshuffle()
    | "staged pages" >> beam.FlatMap(pages_lib.read_staged)
  )
  unread = everything | "dropped on reading" >> beam.Filter(lambda p: p["drop"])
  pages = everything | "read pages" >> beam.Filter(lambda p: not p["drop"])
  dropped = [unread]
  for step in (
    lambda p: _filter(p, "langid", langid_reason),
    lambda p: _filter(p, "page_length", page_length_reason),
    _url_dedup,
    lambda p: _filter(p, "line_length", line_length_reason),
    _line_dedup,
    lambda p: _filter(p, "bad_words", bad_words_reason),
  ):
    pages, gone = step(pages)
    dropped.append(gone)
  dropped = dropped | "all dropped" >> beam.Flatten()

  num_shards, modulus = settings["shards"], settings["validation_modulus"]

  def shard_key(page):
    url = normalize.normalize_url(page["url"])
    shard = int.from_bytes(write.url_hash(url)[:4], "little") % num_shards
    split = write.split_of(url, modulus)
    return (page["language"], split, shard), page

  written = (
    pages
    | "key by shard" >> beam.Map(shard_key)
    | "group by shard" >> beam.GroupByKey()
    | "write shards" >> beam.ParDo(write.WriteShard(output, num_shards))
    | "key counts" >> beam.Map(lambda row: ((row[0], row[1]), row[2]))
    | "add counts" >> beam.CombinePerKey(_add_counts)
  )
  decisions = (pages, dropped) | "kept and dropped" >> beam.Flatten()
  _ = (
    decisions
    | "decisions" >> beam.Map(_decision)
    | "key decisions"
    >> beam.Map(
      lambda row: (
        int(hashlib.md5(row["id"].encode()).hexdigest(), 16) % _DECISION_SHARDS,
        row,
      )
    )
    | "group decisions" >> beam.GroupByKey()
    | "write decisions" >> beam.ParDo(write.WriteDecisions(output))
  )
  _ = (
    dropped
    | "key by reason"
    >> beam.Map(lambda p: ((write.language_of(p), *p["drop"]), p))
    | "sample" >> beam.combiners.Top.PerKey(_SAMPLE_SIZE, key=_sample_rank)
    | "write samples" >> beam.ParDo(write.WriteSample(output))
  )
  outcomes = (
    decisions
    | "key outcome"
    >> beam.Map(lambda p: (write.language_of(p), *(p["drop"] or ("", ""))))
    | "count outcomes" >> beam.combiners.Count.PerElement()
  )
  return written, outcomes


class _Collect(beam.DoFn):
  """Writes a small PCollection as one JSON file that the driver reads."""

  def __init__(self, path):
    self._path = path

  def process(self, rows):
    with filesystems.FileSystems.create(self._path) as f:
      f.write(json.dumps(sorted(rows)).encode())


def _collect(rows, label, path):
  _ = (
    rows
    | f"list {label}" >> beam.combiners.ToList()
    | f"collect {label}" >> beam.ParDo(_Collect(path))
  )


def funnel(outcomes) -> dict:
  """in, kept and dropped per language and stage, from outcome counts."""
  by_language: dict = {}
  for (language, stage, reason), number in outcomes:
    by_language.setdefault(language, []).append((stage, reason, number))
  result = {}
  for language, rows in sorted(by_language.items()):
    remaining = sum(number for _, _, number in rows)
    stages = {}
    for stage in STAGES:
      reasons = {r: n for s, r, n in sorted(rows) if s == stage}
      kept = remaining - sum(reasons.values())
      stages[stage] = {"in": remaining, "kept": kept, "dropped": reasons}
      remaining = kept
    result[language] = stages
  return result


def _options(arguments: Sequence[str]):
  parser = argparse.ArgumentParser(
    prog="python -m beam_pipelines.mc4",
    description=__doc__.split("\n\n")[0],
    epilog="Further options are Apache Beam's.",
  )
  add = parser.add_argument
  add("--input", required=True, help="WARC or WET files: patterns, by comma")
  add("--output", required=True, help="directory of the corpus")
  add("--preset", default="lecture", help="thresholds: lecture or tfds")
  add(
    "--validation_modulus",
    type=int,
    required=True,
    help="one page in this many is validation (mC4: 1000)",
  )
  add("--shards", type=int, default=1, help="files a language and split")
  add(
    "--languages", help="codes to keep, by comma (default: all that cld3 knows)"
  )
  add("--bad_words", help="directory of word lists named by language (en, …)")
  return parser.parse_known_args(arguments)


def _check(options) -> tuple[list[str], dict, dict]:
  """Input files, settings and bad-word patterns, or an InputError."""
  presets = json.loads(_THRESHOLDS.read_text())
  if options.preset not in presets:
    raise InputError(
      f"unknown preset {options.preset!r}; choose one of {', '.join(presets)}"
    )
  if options.validation_modulus < 2 or options.shards < 1:
    raise InputError(
      f"--validation_modulus {options.validation_modulus} must be at least 2 "
      f"and --shards {options.shards} at least 1"
    )
  files = []
  for pattern in options.input.split(","):
    (match,) = filesystems.FileSystems.match([pattern])
    if not match.metadata_list:
      raise InputError(f"no file matches --input {pattern!r}; check the path")
    files += [
      (metadata.path, metadata.size_in_bytes)
      for metadata in match.metadata_list
    ]
  languages = None
  if options.languages:
    languages = [
      registry.get(code).code for code in options.languages.split(",")
    ]
  thresholds = {
    k: v for k, v in presets[options.preset].items() if k != "sources"
  }
  settings = {
    **thresholds,
    "preset": options.preset,
    "validation_modulus": options.validation_modulus,
    "shards": options.shards,
    "languages": languages,
    "bad_words": bool(options.bad_words),
    "inputs": sorted(files),
  }
  patterns = (
    bad_words.read_lists(options.bad_words) if options.bad_words else {}
  )
  settings["bad_words_languages"] = sorted(patterns)
  return [path for path, _ in sorted(files)], settings, patterns


def _require_same(manifest: pathlib.Path, settings: dict) -> None:
  """An InputError if the directory belongs to other inputs or options."""
  found = json.loads(manifest.read_text())["settings"]
  wanted = json.loads(json.dumps(settings))
  names = [
    k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)
  ]
  if names:
    name = names[0]
    raise InputError(
      f"{manifest.parent} was begun with {name} = {found.get(name)!r}, not "
      f"{wanted.get(name)!r}; choose another --output, or remove it"
    )


def _pipeline(beam_arguments):
  options = pipeline_options.PipelineOptions(
    beam_arguments, save_main_session=False
  )
  runner = options.view_as(pipeline_options.StandardOptions).runner
  if runner in (None, "DirectRunner"):
    # Beam's own DirectRunner may hand over to one that it must download.
    return beam.Pipeline(fn_api_runner.FnApiRunner(), options=options)
  return beam.Pipeline(options=options)


def _write_json(path: pathlib.Path, value: dict) -> None:
  partial = path.with_name(path.name + ".partial")
  partial.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
  partial.rename(path)


def run(arguments: Sequence[str]) -> dict:
  """Builds the corpus and returns its counts.

  Raises:
    ValueError: for mistakes in the arguments, or input without any page.
  """
  options, beam_arguments = _options(arguments)
  files, settings, patterns = _check(options)
  output = pathlib.Path(options.output)
  manifest, counts_file = output / "manifest.json", output / "counts.json"
  if manifest.exists():
    _require_same(manifest, settings)
  if counts_file.exists():
    counts = json.loads(counts_file.read_text())
    print(write.table(counts))
    print(f"The corpus in {output} is finished; nothing to do.")
    return counts
  stages = output / "stages"
  stages.mkdir(parents=True, exist_ok=True)
  # The manifest comes first: it says whose the half-done work is.
  _write_json(
    manifest,
    {
      "pipeline": "mc4",
      "settings": settings,
      "versions": {"apache-beam": beam.__version__},
    },
  )
  print(f"Reading {len(files)} file(s) into {output}", flush=True)
  with _pipeline(beam_arguments) as pipeline:
    _ = (
      pipeline
      | "input files" >> beam.Create(files)
      | "spread inputs" >> beam.Reshuffle()
      | "read, extract, identify"
      >> beam.ParDo(pages_lib.StagePages(str(stages)))
    )
  staged = [pages_lib.staged_path(str(stages), path) for path in files]
  print("Filtering, deduplicating and writing", flush=True)
  unfinished = output / "unfinished"
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir()
  with _pipeline(beam_arguments) as pipeline:
    written, outcomes = build(
      pipeline,
      staged=staged,
      output=str(unfinished),
      settings=settings,
      patterns=patterns,
    )
    _collect(written, "counts", str(unfinished / "counts.list"))
    _collect(outcomes, "outcomes", str(unfinished / "outcomes.list"))
  return _finish(output, unfinished, stages)


def _finish(output, unfinished, stages) -> dict:
  """Checks the results and moves them to their names; counts.json is last."""
  written = json.loads((unfinished / "counts.list").read_text())
  outcomes = json.loads((unfinished / "outcomes.list").read_text())
  if not written:
    told = ", ".join(f"{s}.{r} {n}" for (_, s, r), n in outcomes) or "no record"
    raise InputError(
      f"no page was kept ({told}); the input needs HTTP responses of HTML, or "
      "WET conversion records, with text that passes the rules"
    )
  languages: dict = {}
  for (language, split), counts in written:
    languages.setdefault(language, {})[split] = counts
  counts = {
    "pipeline": "mc4",
    "languages": {
      code: languages[code] for code in write.in_table_order(languages)
    },
    "stages": list(STAGES),
    "funnel": funnel(outcomes),
  }
  for path in sorted(unfinished.iterdir()):
    if path.is_dir():
      target = output / path.name
      shutil.rmtree(target, ignore_errors=True)
      path.rename(target)
  _write_json(output / "counts.json", counts)
  shutil.rmtree(unfinished)
  shutil.rmtree(stages)
  print(write.table(counts))
  print(f"Corpus: {output}")
  return counts


def main(arguments: Sequence[str]) -> int:
  try:
    run(arguments)
  except (ValueError, OSError) as error:
    print(f"beam_pipelines.mc4: error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
