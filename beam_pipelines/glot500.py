"""The Glot500-c corpus: `python -m beam_pipelines.glot500 --input=FILES …`.

From chunks of declared language (`beam_pipelines.chunks`). Steps, in order:
read, sf1_to_sf4 (character and word repetition, special characters, words, with
ROOTS's values), sf5 (duplicates), cf1 (a corpus not in its declared script),
min_chunks (30,000 for a language), write. Then cf2: character trigram models
of all languages are compared, and neighbours.tsv lists the nearest of each and
flags the pairs that are not of one family, for a person to look at. Nothing is
removed by cf2; a language found wrong is left out or renamed in the input.

Source: ImaniGooghari et al. 2023 (Glot500), sections 3.1 and 3.2.
"""

import hashlib
import pathlib
import sys
import time
from collections.abc import Sequence

import apache_beam as beam

from beam_pipelines import chunks as chunks_lib
from beam_pipelines import corpus, driver, ngram_lm, words, write
from beam_pipelines import stages as stages_lib
from beam_pipelines.filters import apply, quality, roots
from mlm.languages import registry

_THRESHOLDS = pathlib.Path(__file__).parent / "thresholds" / "glot500.json"
_STAGES = ("read", "sf1_to_sf4", "sf5", "cf1", "min_chunks")
_LIBRARIES = ("icu4py",)
_MODEL_CHUNKS = 10_000  # of a language, for its model
_HELD_OUT_CHUNKS = 1_000  # of it, to measure other models on


def measured_reason(chunk: dict, thresholds: dict) -> str | None:
  """The first of ROOTS's limits that a chunk breaks (SF1 to SF4)."""
  label = chunk["language"]
  values = roots.measures(
    chunk["text"],
    words.words(chunk["text"], label if label in registry.codes() else "und"),
    character_ngram=thresholds["character_ngram"],
    word_ngram=thresholds["word_ngram"],
  )
  limits = thresholds.get(label.split("_")[0], thresholds["default"])
  return quality.outside(values, limits)


def _family(label: str) -> str | None:
  """Of a language in the registry, by its ISO 639-3 code; else None."""
  try:
    return registry.lookup("iso639_3", label.split("_")[0]).family
  except registry.UnknownLanguageError:
    return None


def _too_few(chunks, min_chunks):
  return (
    chunks
    | "languages" >> beam.Map(lambda chunk: chunk["language"])
    | "count chunks" >> beam.combiners.Count.PerElement()
    | "too few" >> beam.Filter(lambda row: row[1] < min_chunks)
    | "small languages" >> beam.Keys()
  )


def build(chunks, *, thresholds: dict):
  """(kept, dropped) chunks of read ones."""
  return apply.apply_all(
    chunks,
    [
      lambda c: apply.apply(
        c, "sf1_to_sf4", lambda chunk: measured_reason(chunk, thresholds)
      ),
      chunks_lib.deduplicate,
      lambda c: chunks_lib.drop_listed(
        c,
        chunks_lib.mismatched_corpora(c),
        "cf1",
        "corpus_of_other_script",
        lambda chunk: (chunk["corpus"], chunk["language"]),
      ),
      lambda c: chunks_lib.drop_listed(
        c,
        _too_few(c, thresholds["min_chunks"]),
        "min_chunks",
        "too_few_chunks",
        lambda chunk: chunk["language"],
      ),
    ],
  )


def sample_texts(chunks):
  """{language: texts for its model and texts held out}, chosen by hash."""

  def rank(text):
    return hashlib.sha256(text.encode()).digest()

  return (
    chunks
    | "text by language" >> beam.Map(lambda c: (c["language"], c["text"]))
    | "sample texts"
    >> beam.combiners.Top.PerKey(_MODEL_CHUNKS + _HELD_OUT_CHUNKS, key=rank)
  )


def neighbours(texts: dict[str, list[str]]) -> list[dict]:
  """The nearest language of each by perplexity divergence.

  Args:
    texts: {language: chunks}; up to half of them, at most 1,000, are held out
      from the model.

  Returns:
    Rows {"language", "nearest", "divergence", "own_perplexity", "family",
    "nearest_family", "flag"} in order of the language; flag is "" or what a
    person should look at.
  """
  models, held_out = {}, {}
  for label, of_label in sorted(texts.items()):
    cut = min(_HELD_OUT_CHUNKS, len(of_label) // 2)
    held_out[label] = ngram_lm.count_trigrams(of_label[:cut])
    models[label] = ngram_lm.train(ngram_lm.count_trigrams(of_label[cut:]))
  perplexities = {
    (a, b): model.perplexity(of_b)
    for a, model in models.items()
    for b, of_b in held_out.items()
    if len(of_b.keys)
  }
  rows = []
  for a in models:
    divergences = {
      b: max(perplexities[a, b], perplexities[b, a])
      for b in models
      if a != b and {(a, b), (b, a)} <= perplexities.keys()
    }
    if not divergences:
      continue
    nearest = min(divergences, key=lambda b: (divergences[b], b))
    families = _family(a), _family(nearest)
    if None in families:
      flag = "family unknown"
    else:
      flag = "" if families[0] == families[1] else "other family"
    rows.append(
      {
        "language": a,
        "nearest": nearest,
        "divergence": round(divergences[nearest], 3),
        "own_perplexity": round(perplexities[a, a], 3),
        "family": families[0] or "",
        "nearest_family": families[1] or "",
        "flag": flag,
      }
    )
  return rows


def _settings(options) -> tuple[dict, driver.Inputs]:
  thresholds = corpus.read_json(str(_THRESHOLDS))
  if options.min_chunks is not None:
    thresholds["min_chunks"] = options.min_chunks
  settings, inputs = driver.common_settings(options)
  return {**settings, "thresholds": thresholds}, inputs


def _read(pipeline, output):
  chunks = driver.spread_files(pipeline, output) | "chunks" >> beam.FlatMap(
    lambda file: chunks_lib.read_chunks(*file[:2])
  )
  unread = chunks | "dropped on reading" >> beam.Filter(lambda c: c["drop"])
  return chunks | "read" >> beam.Filter(lambda c: not c["drop"]), unread


def _write_neighbours(path: str, rows: list[dict]) -> None:
  lines = ["\t".join(rows[0])] if rows else []
  lines += ["\t".join(map(str, row.values())) for row in rows]
  write.write_lines(lines, path)


def run(arguments: Sequence[str]) -> dict:
  """Builds the corpus and returns its counts.

  Raises:
    ValueError: for mistakes in the arguments, or input without any chunk.
  """
  started = time.monotonic()
  parser = driver.Parser("glot500", __doc__)
  parser.add_argument(
    "--min_chunks", type=int, help="of a language (default: Glot500-c's 30000)"
  )
  options, beam_arguments = parser.parse(arguments)
  (settings, inputs), output = _settings(options), options.output
  counts, directory = driver.start(
    output, "glot500", settings, inputs, {}, _LIBRARIES
  )
  if counts is not None:
    return counts

  make = driver.pipeline_maker(beam_arguments, options.graphs)
  stages = stages_lib.Stages(directory, make)
  print("Cleaning and writing chunks", flush=True)
  with make() as pipeline:
    chunks, unread = _read(pipeline, output)
    kept, dropped = build(chunks, thresholds=settings["thresholds"])
    write.write_corpus(
      kept,
      (unread, dropped) | "all dropped" >> beam.Flatten(),
      output,
      stages=directory,
      settings=settings,
    )
    stages.write("sample", sample_texts(kept))
  print("Comparing languages", flush=True)
  rows = neighbours(dict(stages.rows("sample")))
  _write_neighbours(corpus.join(output, "neighbours.tsv"), rows)
  return driver.finish(
    output,
    directory,
    "glot500",
    _STAGES,
    settings,
    started,
    explain=_explain_empty,
  )


def _explain_empty(counts: dict) -> str:
  return (
    "no chunk passed the rules; the table above says why: give rows with "
    "text, language (swh_Latn) and corpus, more of them, or --min_chunks"
  )


def main(arguments: Sequence[str]) -> int:
  return driver.main("glot500", run, arguments)


if __name__ == "__main__":
  # Workers import what they run from the module, not from __main__.
  from beam_pipelines import glot500

  sys.exit(glot500.main(sys.argv[1:]))
