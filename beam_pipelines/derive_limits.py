"""Limits for FineWeb2's filters: `python -m beam_pipelines.derive_limits`.

Measures every page of a finished corpus, the cleaner the better, and writes a
file of limits for each language into --output, for `beam_pipelines.fineweb2
--thresholds`. English's limits are given (default.json); the corpus must hold
English pages as the yardstick, but for the rule ten_tail.

Stop words are a language's most frequent words: those that make up 0.8 % of its
words or more, and at least eight. How FineWeb2 chose its lists is unconfirmed.
"""

import argparse
import collections
import pathlib
import sys
from collections.abc import Iterator, Sequence

import apache_beam as beam

from beam_pipelines import corpus, driver, fineweb2, words
from beam_pipelines import stages as stages_lib
from beam_pipelines.filters import distribution, limits, quality
from mlm.text import documents

DERIVED = {
  "gopher_repetition": (
    "duplicate_lines",
    *(f"top_{n}_gram" for n in quality.TOP_NGRAMS),
    *(f"duplicate_{n}_grams" for n in quality.DUPLICATE_NGRAMS),
  ),
  "fineweb_quality": ("sentence_lines", "line_breaks"),
  "gopher_quality": ("mean_word_length", "alphabetic_words"),
}
_DIGITS = 3  # of the measures
_STOP_WORD_SHARE = 0.008
_MIN_STOP_WORDS = 8
_MAX_STOP_WORDS = int(1 / _STOP_WORD_SHARE)
_STOP_WORDS_A_PAGE = 2  # Gopher


def measure(
  document: documents.Document,
) -> Iterator[tuple[str, str, float]]:
  """(code, measure, rounded value) of one page."""
  tokens = words.words(document.text, document.language)
  values = {
    **quality.gopher_repetition(document.text, tokens),
    **quality.fineweb_quality(document.text, tokens),
    **quality.gopher_quality(document.text, tokens, ()),
  }
  for names in DERIVED.values():
    for name in names:
      if name in values:
        yield document.language, name, round(values[name], _DIGITS)


def frequent_words(
  document: documents.Document,
) -> Iterator[tuple[tuple[str, str], int]]:
  """(code, word, copies) of the words of a page that have a letter."""
  counts = collections.Counter(words.words(document.text, document.language))
  for word, number in counts.items():
    if any(map(str.isalpha, word)):
      yield (document.language, word), number


def stop_words(total: int, top: Sequence[tuple[int, str]]) -> list[str]:
  """The most frequent words, of (copies, word) in descending order."""
  return [
    word
    for rank, (number, word) in enumerate(top)
    if rank < _MIN_STOP_WORDS or number >= _STOP_WORD_SHARE * total
  ]


def limits_of(
  measures: dict[str, distribution.Distribution],
  english: dict[str, distribution.Distribution],
  *,
  default: dict,
  rule: str,
) -> dict:
  """Limits of a language: `default` with the derived ones replaced.

  A limit that the rule cannot derive (the measure never varies in English, or
  the language's pages are too short for it) stays English's and is listed
  under "not_derived".
  """
  result = {**default, "rule": rule, "not_derived": []}
  for stage, names in DERIVED.items():
    result[stage] = {name: dict(at) for name, at in default[stage].items()}
    for name in names:
      for side, english_limit in default[stage][name].items():
        try:
          value = limits.derive(
            rule, side, english_limit, english[name], measures[name]
          )
        except (KeyError, ValueError):
          result["not_derived"].append(name)
          continue
        result[stage][name][side] = round(value, _DIGITS)
  return result


def _documents(pipeline, directory, codes):
  return (
    pipeline
    | "languages" >> beam.Create(codes)
    | "spread" >> beam.Reshuffle()
    | "documents"
    >> beam.FlatMap(
      lambda code: documents.read_documents(directory, code, "train")
    )
  )


def run(arguments: Sequence[str]) -> dict[str, dict]:
  """Writes and returns the limits of every language with enough pages.

  Raises:
    ValueError: for mistakes in the arguments.
  """
  parser = argparse.ArgumentParser(
    prog="python -m beam_pipelines.derive_limits",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--corpus", required=True, help="directory of a finished corpus")
  add(
    "--output", required=True, help="directory of the limits; default.json too"
  )
  add("--rule", default="mean_std", choices=limits.RULES)
  add("--min_pages", type=int, default=100, help="fewer: English's limits stay")
  options, beam_arguments = parser.parse_known_args(arguments)
  sizes = {
    code: splits.get("train", {}).get("documents", 0)
    for code, splits in documents.read_counts(options.corpus)[
      "languages"
    ].items()
  }
  codes = sorted(c for c, pages in sizes.items() if pages >= options.min_pages)
  if options.rule != "ten_tail" and "eng_Latn" not in codes:
    raise corpus.InputError(
      f"{options.corpus} has {sizes.get('eng_Latn', 0)} English pages, the "
      f"yardstick of --rule={options.rule}; {options.min_pages} are needed, or "
      "--rule=ten_tail"
    )
  output = pathlib.Path(options.output)
  default = corpus.read_json(str(fineweb2.THRESHOLDS / "default.json"))
  stages = stages_lib.Stages(
    str(output / "stages"), driver.pipeline_maker(beam_arguments)
  )
  stages.run(
    "measures",
    lambda p: (
      _documents(p, options.corpus, codes)
      | "measure" >> beam.FlatMap(measure)
      | "count measures" >> beam.combiners.Count.PerElement()
    ),
  )
  stages.run(
    "words", lambda p: _top_words(_documents(p, options.corpus, codes))
  )
  return _write(output, stages, default=default, rule=options.rule)


def _top_words(pages):
  """[code, all words, [[copies, word], …]], the words that may be stop words."""
  counts = (
    pages
    | "words" >> beam.FlatMap(frequent_words)
    | "count words" >> beam.CombinePerKey(sum)
  )
  totals = (
    counts
    | "by language" >> beam.MapTuple(lambda key, n: (key[0], n))
    | "all words" >> beam.CombinePerKey(sum)
  )
  top = (
    counts
    | "words by language" >> beam.MapTuple(lambda key, n: (key[0], (n, key[1])))
    | "top words" >> beam.combiners.Top.LargestPerKey(_MAX_STOP_WORDS)
  )
  return (
    {"total": totals, "top": top}
    | "totals and top" >> beam.CoGroupByKey()
    | "rows"
    >> beam.MapTuple(lambda code, of: [code, of["total"][0], of["top"][0]])
  )


def _write(output, stages, *, default, rule) -> dict[str, dict]:
  counts: dict = {}
  for (code, name, value), number in stages.rows("measures"):
    counts.setdefault(code, {}).setdefault(name, {})[value] = number
  measures = {
    code: {
      name: distribution.Distribution.of(values)
      for name, values in of_language.items()
    }
    for code, of_language in counts.items()
  }
  result = {"default": default}
  for code, total, top in stages.rows("words"):
    result[code] = limits_of(
      measures[code],
      measures.get("eng_Latn", {}),
      default=default,
      rule=rule,
    )
    result[code]["stop_words"] = stop_words(total, top)
    result[code]["gopher_quality"]["stop_words"] = {"min": _STOP_WORDS_A_PAGE}
  for name, of_language in result.items():
    corpus.write_json(str(output / f"{name}.json"), of_language)
  corpus.remove(str(output / "stages"))
  print(f"Limits of {len(result) - 1} languages: {output}")
  return result


def main(arguments: Sequence[str]) -> int:
  return driver.main("derive_limits", run, arguments)


if __name__ == "__main__":
  # Workers import what they run from the module, not from __main__.
  from beam_pipelines import derive_limits

  sys.exit(derive_limits.main(sys.argv[1:]))
