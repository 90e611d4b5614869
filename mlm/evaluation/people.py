"""People as a judge, through files, and how far several of them agree.

People get a table without a trace of which policy wrote what: comparisons, both
orders of each among them, in random order under names that say nothing. They
give back a table of verdicts; several may judge the same comparison.
"""

import collections
import csv
import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence

from mlm.evaluation import judge as judge_lib

_SHOWN = ("id", "language", "prompt", "answer_A", "answer_B")
_TOLD = ("id", "annotator", "verdict")
_CHOICES = (judge_lib.A, judge_lib.B, judge_lib.TIE)


class VerdictsMissing(FileNotFoundError):
  """The table for people is written; their verdicts are not all there."""


def _blind_id(comparison: judge_lib.Comparison, seed: int) -> str:
  digest = hashlib.sha256(f"{seed} {comparison.id}".encode()).hexdigest()
  return digest[:12]


def write_table(
  path: str, comparisons: Sequence[judge_lib.Comparison], *, seed: int
) -> None:
  """Writes comparisons as tab-separated values, for any spreadsheet.

  Args:
    path: file; cells are quoted, so that they may hold tabs and newlines.
    comparisons: to be judged.
    seed: of the order, and of the names, which cannot be told without it.
  """
  rows = [
    (
      _blind_id(c, seed),
      c.language,
      judge_lib.shown_prompt(c.prompt),
      c.a.text,
      c.b.text,
    )
    for c in comparisons
  ]
  random.Random(seed).shuffle(rows)
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8", newline="") as f:
    writer = csv.writer(f, delimiter="\t", quoting=csv.QUOTE_ALL)
    writer.writerows([_SHOWN, *rows])
  os.replace(partial, path)


def _ids_of(table: str) -> set[str]:
  with open(table, encoding="utf-8", newline="") as f:
    return {row["id"] for row in csv.DictReader(f, delimiter="\t")}


def read_verdicts(path: str) -> dict[str, dict[str, judge_lib.Verdict]]:
  """{comparison: {annotator: verdict}} of a table of id, annotator, verdict.

  Raises:
    ValueError: if a column is missing, a verdict is none of A, B and TIE, or an
      annotator judges a comparison twice.
  """
  verdicts: dict[str, dict[str, str]] = {}
  with open(path, encoding="utf-8-sig", newline="") as f:
    reader = csv.DictReader(f, delimiter="\t")
    missing = [n for n in _TOLD if n not in (reader.fieldnames or ())]
    if missing:
      raise ValueError(
        f"{path} has no column {', '.join(missing)}; it needs {', '.join(_TOLD)} "
        "in its first line, separated by tabs"
      )
    for row in reader:
      where = f"{path}, line {reader.line_num}"
      verdict = (row["verdict"] or "").strip()
      if verdict not in _CHOICES:
        raise ValueError(
          f"{where}: verdict {verdict!r} is none of {', '.join(_CHOICES)}; "
          "leave the line out if there is none"
        )
      of_item = verdicts.setdefault(row["id"], {})
      if row["annotator"] in of_item:
        raise ValueError(
          f"{where}: {row['annotator']!r} judges {row['id']} a second time; "
          "keep one of the two"
        )
      of_item[row["annotator"]] = verdict
  return verdicts


def majority(verdicts: Sequence[judge_lib.Verdict]) -> judge_lib.Verdict:
  """The verdict that more give than any other; a tie where there is none."""
  (first, count), *others = collections.Counter(verdicts).most_common(2)
  return judge_lib.TIE if others and others[0][1] == count else first


def through_files(*, table: str, verdicts: str, seed: int) -> judge_lib.Judge:
  """The judge that writes a table and reads back what people said of it.

  Args:
    table: file that is written for people.
    verdicts: file that they give back, with columns id, annotator, verdict.
    seed: of the order of the table.

  Returns:
    A judge that raises VerdictsMissing as long as a comparison has no verdict,
    and ValueError if the files are of other comparisons. How far annotators
    agree is written beside the verdicts, as VERDICTS.agreement.json.
  """

  def judge(comparisons):
    ids = [_blind_id(c, seed) for c in comparisons]
    if not os.path.exists(table):
      write_table(table, comparisons, seed=seed)
    elif _ids_of(table) != set(ids):
      raise ValueError(
        f"{table} was written for other comparisons; move it and the verdicts "
        "away, or give other files"
      )
    if not os.path.exists(verdicts):
      raise VerdictsMissing(
        f"{table} holds {len(ids)} comparisons for people to judge; save what "
        f"they say as {verdicts} (id, annotator, verdict, separated by tabs; A, "
        "B or TIE) and run the job again"
      )
    told = read_verdicts(verdicts)
    unknown = sorted(set(told) - set(ids))
    if unknown:
      raise ValueError(
        f"{verdicts} judges {unknown[0]} and {len(unknown) - 1} others that are "
        f"not among the comparisons of {table}; was it made for another table?"
      )
    missing = [i for i in ids if i not in told]
    if missing:
      raise VerdictsMissing(
        f"{len(missing)} of the {len(ids)} comparisons in {table} have no "
        f"verdict in {verdicts} yet, {missing[0]} for one; add them and run the "
        "job again"
      )
    with open(f"{verdicts}.agreement.json", "w", encoding="utf-8") as f:
      languages = {i: c.language for i, c in zip(ids, comparisons)}
      json.dump(agreement(told, languages), f, indent=1)
    return [majority(list(told[i].values())) for i in ids]

  return judge


def krippendorff_alpha(items: Sequence[Sequence[str]]) -> float | None:
  """Agreement beyond chance of any number of judges, for unordered verdicts.

  alpha = 1 - observed / expected disagreement. Items with a single verdict say
  nothing and are left out.

  Args:
    items: the verdicts that each item got.

  Returns:
    1 for perfect agreement, 0 for that of chance; None where all verdicts are
    the same, or no item has two.

  Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability",
  section D (nominal data, missing values).
  """
  coincidences: collections.Counter = collections.Counter()
  for verdicts in items:
    if len(verdicts) < 2:
      continue
    counts = collections.Counter(verdicts)
    for one, n in counts.items():
      for other, m in counts.items():
        pairs = n * (n - 1) if one == other else n * m
        coincidences[one, other] += pairs / (len(verdicts) - 1)
  totals: collections.Counter = collections.Counter()
  for (one, _), number in coincidences.items():
    totals[one] += number
  total = sum(totals.values())
  expected = total**2 - sum(n**2 for n in totals.values())
  if not expected:
    return None
  agreeing = sum(n for (one, other), n in coincidences.items() if one == other)
  return 1 - (total - agreeing) * (total - 1) / expected


def agreement(
  verdicts: Mapping[str, Mapping[str, judge_lib.Verdict]],
  languages: Mapping[str, str],
) -> dict[str, dict]:
  """How far annotators agree, by language.

  Args:
    verdicts: {item: {annotator: verdict}}; a judge of another kind may be one
      of the annotators.
    languages: {item: code}.

  Returns:
    {code: {"items", "annotators", "agreement", "alpha"}}, of items with two
    verdicts or more; agreement is the share of pairs of verdicts on an item
    that are equal, items counting the same, and None without such items.
  """
  rows = {}
  for code in sorted({languages[item] for item in verdicts}):
    of = [v for item, v in verdicts.items() if languages[item] == code]
    judged = [list(v.values()) for v in of if len(v) > 1]
    shares = []
    for told in judged:
      counts = collections.Counter(told).values()
      pairs = len(told) * (len(told) - 1)
      shares.append(sum(n * (n - 1) for n in counts) / pairs)
    rows[code] = {
      "items": len(judged),
      "annotators": len({annotator for v in of for annotator in v}),
      "agreement": sum(shares) / len(shares) if shares else None,
      "alpha": krippendorff_alpha(judged),
    }
  return rows
