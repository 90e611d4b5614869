"""Language identification on a crawl whose truth is known, rule by rule.

    python -m benchmarks.langid --input=crawl.warc.gz --truth=truth.tsv --output=DIR

For cld3 at a threshold, then with the script check, then with CLD2's second
opinion: precision and recall of each language, and leaks, pages of languages
that cld3 does not know and that pass as another. Pages without text are left
out. The truth table has columns url and language (or lang).
"""

import argparse
import collections
import csv
import os

from beam_pipelines import pages
from beam_pipelines.filters import language
from mlm.evaluation import identification
from mlm.languages import registry

RULES = ("cld3", "cld3 + script", "cld3 + script + CLD2")


def _verdicts(page: dict, threshold: float) -> tuple[str | None, ...]:
  """The language that a page passes as under each of RULES."""

  def named(page, min_script_share):
    reason = language.language(
      page,
      languages=None,
      min_probability=threshold,
      min_script_share=min_script_share,
    )
    return None if reason else page["language"]

  alone = {**page, "second_agrees": None}
  return named(alone, 0), named(alone, 0.2), named(page, 0.2)


def _tables(truth_and_verdicts):
  counts = [collections.Counter() for _ in RULES]
  totals, leaks = collections.Counter(), [collections.Counter() for _ in RULES]
  known = set(registry.codes())
  for true, verdicts in truth_and_verdicts:
    totals[true] += 1
    for i, named in enumerate(verdicts):
      if named:
        counts[i]["named", named] += 1
        counts[i]["right", named] += named == true
        if true not in known:
          leaks[i][true, named] += 1
  rows = []
  for code in sorted({*totals, *(c for x in counts for _, c in x)} & known):
    row = {"language": code, "pages": totals[code]}
    for rule, count in zip(RULES, counts):
      named, right = count["named", code], count["right", code]
      row[f"{rule}: named"] = named
      row[f"{rule}: precision"] = f"{right / named:.3f}" if named else ""
      row[f"{rule}: recall"] = (
        f"{right / totals[code]:.3f}" if totals[code] else ""
      )
    rows.append(row)
  return rows, counts, totals, leaks, known


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--input", required=True)
  parser.add_argument("--truth", required=True)
  parser.add_argument("--output", required=True)
  parser.add_argument("--threshold", type=float, default=0.7)
  options = parser.parse_args()
  truth = identification.read_truth(options.truth)
  part = pages.Part(0, options.input, 0, os.path.getsize(options.input))
  found = [
    (true, _verdicts(page, options.threshold))
    for page in pages.read_pages(part, second_opinion=True)
    if not page["drop"] and (true := truth.get(page["url"]))
  ]
  rows, counts, totals, leaks, known = _tables(found)
  os.makedirs(options.output, exist_ok=True)
  path = os.path.join(options.output, "langid.tsv")
  with open(path, "w", encoding="utf-8", newline="") as f:
    writer = csv.DictWriter(f, rows[0], delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
  inside = sum(n for code, n in totals.items() if code in known)
  outside = sum(totals.values()) - inside
  print(f"{inside:,} pages of the registry's languages, {outside:,} of others")
  print(f"{'rule':<22}{'named':>8}{'right':>8}{'recall':>8}{'leaks':>8}  worst")
  for rule, count, leak in zip(RULES, counts, leaks):
    named, right = (
      sum(n for (kind, _), n in count.items() if kind == wanted)
      for wanted in ("named", "right")
    )
    worst = ", ".join(f"{a} as {b} {n}" for (a, b), n in leak.most_common(4))
    print(
      f"{rule:<22}{named:>8,}{right / named:>8.1%}{right / inside:>8.1%}"
      f"{sum(leak.values()) / max(outside, 1):>8.1%}  {worst}"
    )
  print(f"By language: {path}")


if __name__ == "__main__":
  main()
