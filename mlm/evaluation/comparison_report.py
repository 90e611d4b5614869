"""Sections and the HTML page of one policy compared with another."""

from collections.abc import Collection, Mapping

from mlm.evaluation import comparison_figures, corpus_report

_COLUMNS = ("win", "loss", "tie", "delta", "low", "high", "prompts", "clusters")


def rates_section(
  results: Mapping, *, title: str, text: str, seen: Collection[str] | None
) -> dict:
  """Figure and table of rates: languages, then averages of groups.

  Args:
    results: {"win_rate": …} and, if lengths were controlled,
      "length_controlled", of `comparison.summarize`.
    title: of the section.
    text: what the judge is, in a sentence.
    seen: see `comparison_figures.rates`.
  """
  number = corpus_report.number
  win_rate = results["win_rate"]
  controlled = results.get("length_controlled")
  rows = []
  for label, part in (("", "by_language"), ("average: ", "groups")):
    for name, row in win_rate[part].items():
      cells = [f"{label}{name}", *(number(row[c], 1) for c in _COLUMNS)]
      if controlled is not None:
        of = controlled[part][name]
        cells += [number(of[c], 1) for c in ("delta", "low", "high")]
      rows.append(cells)
  overall = ["average", *(number(win_rate["overall"][c], 1) for c in _COLUMNS)]
  columns = ["language", *_COLUMNS]
  if controlled is not None:
    names = ("delta", "low", "high")
    overall += [number(controlled["overall"][c], 1) for c in names]
    columns += [f"{name} at equal length" for name in names]
  return {
    "title": title,
    "text": text,
    "figure": comparison_figures.rates(win_rate, controlled, seen=seen),
    "columns": columns,
    "rows": [overall, *rows],
  }


def judging_section(judging: Mapping[str, Mapping]) -> dict:
  """What the judge did in each language, and how long answers were."""
  number = corpus_report.number
  rows = []
  for code, row in judging.items():
    given = row["first"] + row["second"]
    rows.append(
      [
        code,
        *(
          number(row[n]) for n in ("comparisons", "no_verdict", "inconsistent")
        ),
        f"{row['first'] / given:.1%}" if given else "–",
        *(number(row[n], 0) for n in ("length_a", "length_b")),
      ]
    )
  missing = sum(row["no_verdict"] for row in judging.values())
  total = sum(row["comparisons"] for row in judging.values())
  return {
    "title": "What the judge did",
    "text": f"{missing:,} of {total:,} comparisons have no verdict in one of the "
    "orders and are left out. Inconsistent ones, a tie each, changed with the "
    "order. A judge without a liking for a place prefers the first in half.",
    "figure": "",
    "columns": [
      "language",
      "comparisons",
      "no verdict",
      "inconsistent",
      "verdicts for the first place",
      "characters of A",
      "characters of B",
    ],
    "rows": rows,
    "open": True,
  }


def write_report(
  path: str,
  results: Mapping,
  *,
  a: str,
  b: str,
  judge: str,
  seen: Collection[str] | None,
) -> None:
  """Writes the page.

  Args:
    path: HTML file.
    results: of `comparison.summarize`.
    a: name of the policy, in the page.
    b: name of its opponent.
    judge: what judged, in the page.
    seen: languages of the policy's preferences; None if that is not asked.
  """
  win_rate, controlled = results["win_rate"], results["length_controlled"]
  overall, at_equal = win_rate["overall"], controlled["overall"]
  slope = controlled["slope"]
  unjudged = results["unjudged_languages"]
  told = comparison_figures.told_interval
  text = (
    f"A is {a}, B is {b}. Judge: {judge}, asked in both orders; a win is one in "
    f"both. Intervals are {results['confidence']:.0%} bootstraps over source "
    "prompts, each in all its languages; of fewer than twenty prompts they can "
    "be much too narrow. At equal length: a logistic regression on the "
    f"difference of lengths, whose slope is {slope['value']:.2f} "
    f"{told(slope, 2)}."
  )
  if unjudged:
    text += f" Without any verdict: {', '.join(unjudged)}."
  corpus_report.render(
    path,
    title=f"{a} against {b}",
    headline=[
      ("wins − losses, points", f"{overall['delta']:+.1f} {told(overall)}"),
      (
        "at equal length",
        f"{at_equal['delta']:+.1f} {told(at_equal)}",
      ),
      ("languages", len(win_rate["by_language"])),
      ("source prompts", f"{overall['clusters']:,}"),
    ],
    sections=[
      rates_section(results, title="Win rates", text=text, seen=seen),
      judging_section(results["judging"]),
    ],
    samples=[],
  )
