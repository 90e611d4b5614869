"""Language identification against known truth, page by page."""

import collections
import csv
import gzip
import json
import pathlib

from mlm.languages import registry


def read_truth(path: str) -> dict[str, str]:
  """url -> canonical code, of a table with columns url and language (or lang).

  Pages without a language, or with one outside the registry, keep their label
  as it is or "": they count as leaks when the detector names a language.

  Raises:
    ValueError: if a column is missing.
  """
  with open(path, encoding="utf-8", newline="") as f:
    reader = csv.DictReader(f, delimiter="\t")
    names = reader.fieldnames or []
    column = next((n for n in ("language", "lang") if n in names), None)
    if "url" not in names or column is None:
      raise ValueError(
        f"{path} has columns {names}; it needs url and language (or lang)"
      )
    truth = {}
    for row in reader:
      label = row[column]
      for source in ("code", "bcp47"):
        try:
          label = registry.lookup(source, row[column]).code
          break
        except registry.UnknownLanguageError:
          continue
      truth[row["url"]] = label
  return truth


def read_decisions(corpus: str) -> list[dict]:
  """All decision rows of a corpus."""
  rows = []
  for path in sorted((pathlib.Path(corpus) / "decisions").glob("*.jsonl.gz")):
    with gzip.open(path, "rt", encoding="utf-8") as f:
      rows += [json.loads(line) for line in f]
  return rows


def agreement(
  decisions: list[dict], truth: dict[str, str]
) -> dict[str, dict[str, int]]:
  """Counts by true language of pages that the detector was sure enough of.

  Returns:
    {label: {"pages", "accepted", "right", "kept"}}; accepted pages passed the
    probability threshold, right ones were given their true language.
  """
  result: dict = collections.defaultdict(
    lambda: dict.fromkeys(("pages", "accepted", "right", "kept"), 0)
  )
  for row in decisions:
    label = truth.get(row["url"], "")
    if not label or row["stage"] in ("read", "extract"):
      continue
    counts = result[label]
    counts["pages"] += 1
    if row["stage"] != "langid":
      counts["accepted"] += 1
      counts["right"] += row["language"] == label
    counts["kept"] += row["outcome"] == "kept"
  return dict(result)


def confusions(
  decisions: list[dict], truth: dict[str, str]
) -> dict[tuple[str, str], int]:
  """{(true, named): pages} that pass as another language than their true one."""
  counts: collections.Counter = collections.Counter()
  for row in decisions:
    true = truth.get(row["url"], "")
    if true and row["stage"] not in ("read", "extract", "langid"):
      if row["language"] != true:
        counts[true, row["language"]] += 1
  return dict(counts)
