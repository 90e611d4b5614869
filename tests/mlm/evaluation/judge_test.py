"""The judge against py3langid itself, on the pages of the sample crawl."""

import html
import pathlib
import re

import numpy as np
import pytest
from py3langid import langid

from mlm.evaluation import judge
from mlm.languages import registry

SOURCES = pathlib.Path(__file__).parents[2] / "testdata/crawl/sources"
CODES = (
  "amh_Ethi",
  "arb_Arab",
  "ell_Grek",
  "heb_Hebr",
  "hin_Deva",
  "ind_Latn",
  "kat_Geor",
  "kor_Hang",
  "pes_Arab",
  "rus_Cyrl",
  "swh_Latn",
  "tha_Thai",
  "ukr_Cyrl",
  "zho_Hani",
  "zul_Latn",
)
# Labels of py3langid, written out by hand.
LABELS = dict(
  zip(CODES, "am ar el he hi id ka ko fa ru sw th uk zh zu".split())
)


def _paragraphs(code):
  for path in sorted((SOURCES / code).glob("*.html")):
    for text in re.findall("<p>(.*)</p>", path.read_text(encoding="utf-8")):
      yield html.unescape(text)


@pytest.fixture(scope="module")
def judge_of_all():
  return judge.second_identifier(CODES)


@pytest.fixture(scope="module")
def whole_model():
  return langid.LanguageIdentifier.from_model_file(
    langid.MODEL_FILE, norm_probs=True
  )


@pytest.mark.parametrize("code", CODES)
def test_every_paragraph_is_judged_its_language(judge_of_all, code):
  identify, known = judge_of_all
  assert set(known) == set(CODES)
  for text in _paragraphs(code):
    identified, probability = identify(text)
    assert identified == code, text
    assert 0.5 < probability <= 1 + 1e-6


@pytest.mark.parametrize(
  "codes",
  [
    CODES,
    ("ind_Latn", "zul_Latn", "swh_Latn"),
    ("rus_Cyrl", "ukr_Cyrl"),
    ("tha_Thai", "amh_Ethi", "ell_Grek", "arb_Arab", "pes_Arab"),
    ("srp_Cyrl", "uzn_Latn", "zul_Latn"),  # two classes a label in the model
  ],
)
def test_restriction_is_bayes_rule_on_the_whole_model(codes, whole_model):
  """p(l | text, l in S) = p(l | text) / sum of p over S: same prior, less S."""
  labels = {**LABELS, "srp_Cyrl": "sr", "uzn_Latn": "uz"}
  identify, _ = judge.second_identifier(codes)
  compared = 0
  for source in CODES:
    text = next(_paragraphs(source))[:60]
    p = dict(whole_model.rank(text))
    shares = np.array([p[labels[code]] for code in codes])
    if shares.sum() < 1e-6:
      continue  # float32 has nothing left to divide by
    shares = shares / shares.sum()
    identified, probability = identify(text)
    # Scores are float32 sums of logs in the hundreds: e^(1e-5) is rounding.
    assert probability == pytest.approx(shares.max(), rel=1e-4)
    if np.ptp(np.sort(shares)[-2:]) > 1e-3:
      assert identified == codes[shares.argmax()]
    compared += 1
  assert compared >= 2


def test_order_of_the_languages_and_other_judges_change_nothing(judge_of_all):
  identify, known = judge_of_all
  texts = [next(_paragraphs(code)) for code in CODES]
  before = [identify(text) for text in texts]
  backwards, known_backwards = judge.second_identifier(CODES[::-1])
  judge.second_identifier(["ell_Grek", "fra_Latn"])
  assert set(known_backwards) == set(known)
  assert [backwards(text) for text in texts] == before
  assert [identify(text) for text in texts] == before


def test_languages_it_cannot_name_are_not_known():
  codes = ["hin_Latn", "rus_Latn", "haw_Latn", "tha_Thai", "snd_Arab"]
  assert judge.second_identifier(codes)[1] == ("tha_Thai",)


def test_text_without_letters_has_no_language(judge_of_all):
  for text in ("", " \n", "12 345,67", "…？！。", "🥖🥖", "١٢٣"):
    assert judge_of_all[0](text) == (None, 0.0)


def test_a_language_outside_the_registry_is_refused():
  with pytest.raises(registry.UnknownLanguageError, match="'swh_Latn'"):
    judge.second_identifier(["tha_Thai", "sw"])


def _comparison(name, a, b, code="tha_Thai"):
  return judge.Comparison(
    name, code, "?", judge.Answer(a, True), judge.Answer(b, True)
  )


def test_a_judge_that_looks_at_the_place_gives_only_ties():
  comparisons = [_comparison(str(i), f"{i}", "x") for i in range(20)]
  for place in (judge.A, judge.B):
    told = judge.in_both_orders(lambda cs, p=place: [p] * len(cs), comparisons)
    assert {judge.outcome(*pair) for pair in told} == {judge.TIE}


@pytest.mark.parametrize(
  "forward, swapped, outcome",
  [
    ("A", "B", "A"),
    ("B", "A", "B"),
    ("TIE", "TIE", "TIE"),
    ("A", "TIE", "TIE"),
    ("A", "A", "TIE"),
    ("A", "NO_VERDICT", "NO_VERDICT"),
    ("NO_VERDICT", "TIE", "NO_VERDICT"),
  ],
)
def test_only_consistent_verdicts_win(forward, swapped, outcome):
  assert judge.outcome(forward, swapped) == outcome
  mirrored = {"A": "B", "B": "A"}
  assert judge.outcome(swapped, forward) == mirrored.get(outcome, outcome)


def _longer(answers):
  return np.array([float(len(a.text)) for *_, a in answers])


def test_scores_make_a_judge_that_no_order_changes():
  asked = []

  def score(answers):
    asked.append(list(answers))
    return _longer(answers)

  comparisons = [
    _comparison("1", "aaa", "b"),
    _comparison("2", "b", "aaa"),
    _comparison("3", "aaa", "aa"),
    _comparison("4", "b", "c"),
  ]
  told = judge.in_both_orders(judge.of_scores(score, margin=1.0), comparisons)
  assert told == [("A", "B"), ("B", "A"), ("TIE", "TIE"), ("TIE", "TIE")]
  texts = [a.text for *_, a in asked[0]]
  assert sorted(texts) == sorted({"aaa", "aa", "b", "c"})  # each once


def test_an_answer_that_cannot_be_scored_has_no_verdict():
  judged = judge.of_scores(
    lambda answers: np.where(_longer(answers) > 1, np.nan, 0.0), margin=0.0
  )
  told = judged([_comparison("1", "aa", "b"), _comparison("2", "b", "c")])
  assert told == ["NO_VERDICT", "TIE"]


def test_the_verifier_prefers_the_language_of_the_prompt(judge_of_all):
  identify, known = judge_of_all
  judged = judge.of_scores(
    judge.verifiable_score(
      identify=identify, known=known, encode=lambda text: list(text.encode())
    ),
    margin=0.01,
  )
  thai, russian = (next(_paragraphs(c)) for c in ("tha_Thai", "rus_Cyrl"))
  assert judged(
    [
      _comparison("1", thai, russian, "tha_Thai"),
      _comparison("2", thai, russian, "rus_Cyrl"),
      _comparison("3", thai, russian, "haw_Latn"),
      _comparison("4", thai, thai, "tha_Thai"),
      _comparison("5", "", "", "tha_Thai"),
    ]
  ) == ["A", "B", "NO_VERDICT", "TIE", "TIE"]
  unended = judge.Comparison(
    "6",
    "tha_Thai",
    "?",
    judge.Answer(thai, False),
    judge.Answer(thai, True),
  )
  assert judged([unended]) == ["B"]


def test_judges_that_do_not_answer_each_comparison_are_refused():
  comparisons = [_comparison("1", "a", "b")]
  with pytest.raises(ValueError, match="1 verdicts for 2"):
    judge.in_both_orders(lambda cs: ["A"], comparisons)
  with pytest.raises(ValueError, match="'maybe'"):
    judge.in_both_orders(lambda cs: ["maybe"] * len(cs), comparisons)
  with pytest.raises(ValueError, match="same id"):
    judge.in_both_orders(lambda cs: ["A"] * len(cs), comparisons * 2)
