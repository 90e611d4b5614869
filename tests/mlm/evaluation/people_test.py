"""People's files: blinded, read back, and agreement by published numbers."""

import csv
import json

import pytest

from mlm.evaluation import judge, people

COMPARISONS = [
  judge.Comparison(
    f"{code}/{i}",
    code,
    f'{word} "{i}"\t?\n',
    judge.Answer(f"{word} ours", True),
    judge.Answer(f"{word} theirs", False),
  )
  for code, word in (
    ("eng_Latn", "river"),
    ("rus_Cyrl", "река"),
    ("hin_Deva", "नदी"),
    ("tha_Thai", "แม่น้ำ"),
    ("arb_Arab", "نهر"),
    ("amh_Ethi", "ወንዝ"),
  )
  for i in range(3)
]


def _rows(path):
  with open(path, encoding="utf-8", newline="") as f:
    return list(csv.DictReader(f, delimiter="\t"))


def _write(path, rows):
  lines = ["id\tannotator\tverdict", *("\t".join(row) for row in rows)]
  path.write_text("\n".join(lines) + "\n")


def _judge(folder):
  return people.through_files(
    table=str(folder / "table.tsv"),
    verdicts=str(folder / "verdicts.tsv"),
    seed=5,
  )


def test_people_see_both_orders_and_no_trace_of_the_policy(tmp_path):
  with pytest.raises(people.VerdictsMissing, match="36 comparisons"):
    judge.in_both_orders(_judge(tmp_path), COMPARISONS)
  rows = _rows(tmp_path / "table.tsv")
  shown = {(r["prompt"], r["answer_A"], r["answer_B"]) for r in rows}
  assert shown == {
    (c.prompt, *texts)
    for c in COMPARISONS
    for texts in ((c.a.text, c.b.text), (c.b.text, c.a.text))
  }
  assert not any(c.id in r["id"] for r in rows for c in COMPARISONS)
  assert len({r["id"] for r in rows}) == 36
  # Neither languages nor orders come one after the other.
  firsts = [r["answer_A"].endswith("ours") for r in rows]
  assert sum(a != b for a, b in zip(firsts, firsts[1:])) > 8
  codes = [r["language"] for r in rows]
  assert sum(a != b for a, b in zip(codes, codes[1:])) > 18


def test_verdicts_come_back_to_their_comparisons(tmp_path):
  with pytest.raises(people.VerdictsMissing):
    judge.in_both_orders(_judge(tmp_path), COMPARISONS)
  rows = _rows(tmp_path / "table.tsv")
  # Two people prefer ours wherever it stands, a third always what is first.
  told = [
    (r["id"], name, "A" if r["answer_A"].endswith("ours") else "B")
    for r in rows
    for name in ("Ana", "Bo")
  ] + [(r["id"], "Cy", "A") for r in rows]
  _write(tmp_path / "verdicts.tsv", told[:-36])
  two = judge.in_both_orders(_judge(tmp_path), COMPARISONS)
  _write(tmp_path / "verdicts.tsv", told)
  assert judge.in_both_orders(_judge(tmp_path), COMPARISONS) == two
  assert {judge.outcome(*pair) for pair in two} == {judge.A}
  agreement = json.loads((tmp_path / "verdicts.tsv.agreement.json").read_text())
  # Ours is first in half: there all three agree, else one pair of three does.
  for row in agreement.values():
    assert (row["items"], row["annotators"]) == (6, 3)
    assert row["agreement"] == pytest.approx((1 + 1 / 3) / 2)


def test_missing_and_foreign_verdicts_are_told(tmp_path):
  with pytest.raises(people.VerdictsMissing):
    _judge(tmp_path)(COMPARISONS)
  rows = _rows(tmp_path / "table.tsv")
  told = [(r["id"], "Ana", "TIE") for r in rows]
  _write(tmp_path / "verdicts.tsv", told[1:])
  with pytest.raises(people.VerdictsMissing, match="1 of the 18"):
    _judge(tmp_path)(COMPARISONS)
  _write(tmp_path / "verdicts.tsv", [*told, ("0123", "Ana", "A")])
  with pytest.raises(ValueError, match="not among the comparisons"):
    _judge(tmp_path)(COMPARISONS)
  with pytest.raises(ValueError, match="other comparisons"):
    _judge(tmp_path)(COMPARISONS[:3])


@pytest.mark.parametrize(
  "rows, message",
  [
    ([("1", "Ana", "C")], "verdict 'C' is none of"),
    ([("1", "Ana", "")], "verdict '' is none of"),
    ([("1", "Ana", "A"), ("1", "Ana", "A")], "a second time"),
  ],
)
def test_bad_verdicts_are_told_with_their_line(tmp_path, rows, message):
  _write(tmp_path / "v.tsv", rows)
  with pytest.raises(ValueError, match=message) as error:
    people.read_verdicts(str(tmp_path / "v.tsv"))
  assert f"line {1 + len(rows)}" in str(error.value)


def test_a_missing_column_is_told(tmp_path):
  (tmp_path / "v.tsv").write_text("id\tverdict\n1\tA\n")
  with pytest.raises(ValueError, match="no column annotator"):
    people.read_verdicts(str(tmp_path / "v.tsv"))


def test_majority_needs_more_than_any_other():
  assert people.majority(["A", "A", "B"]) == "A"
  assert people.majority(["A", "B"]) == "TIE"
  assert people.majority(["A", "B", "TIE"]) == "TIE"
  assert people.majority(["B"]) == "B"


# Krippendorff 2011, section D: four observers, twelve units; . is missing.
OBSERVERS = (
  "1 2 3 3 2 1 4 1 2 . . .",
  "1 2 3 3 2 2 4 1 2 5 . 3",
  ". 3 3 3 2 3 4 2 2 5 1 .",
  "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_alpha_is_the_published_one():
  units = zip(*(row.split() for row in OBSERVERS))
  items = [[v for v in unit if v != "."] for unit in units]
  assert people.krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_judges_has_a_closed_form():
  """3 agreements of 4, verdicts 5 A and 3 B: 1 - 2 * 7 / (64 - 25 - 9)."""
  items = [("A", "A"), ("A", "A"), ("B", "B"), ("A", "B")]
  assert people.krippendorff_alpha(items) == pytest.approx(1 - 14 / 30)
  assert people.krippendorff_alpha([("A", "A"), ("B", "B")]) == 1
  assert people.krippendorff_alpha([("A", "A"), ("A",)]) is None


def test_agreement_of_people_with_a_judge():
  verdicts = {
    "1": {"Ana": "A", "judge": "A"},
    "2": {"Ana": "B", "judge": "A"},
    "3": {"Ana": "B"},
    "4": {"Ana": "TIE", "judge": "TIE"},
  }
  languages = dict.fromkeys("123", "eng_Latn") | {"4": "rus_Cyrl"}
  rows = people.agreement(verdicts, languages)
  assert rows["eng_Latn"]["items"] == 2
  assert rows["eng_Latn"]["agreement"] == 0.5
  assert rows["rus_Cyrl"]["agreement"] == 1
