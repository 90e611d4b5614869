"""Results of comparisons: what is counted, averaged and left out."""

import pytest

from mlm.evaluation import comparison, judge

TEXTS = {
  "eng_Latn": "bread",
  "rus_Cyrl": "утро",
  "hin_Deva": "रोटी",
  "arb_Arab": "خبز",
  "tha_Thai": "ขนมปัง",
  "ell_Grek": "ψωμί",
}
ORDERS = {
  "win": ("A", "B"),
  "loss": ("B", "A"),
  "tie": ("TIE", "TIE"),
  "first": ("A", "A"),
  "none": ("A", "NO_VERDICT"),
}


def _summary(told, *, seen=None):
  """Of {language: names of ORDERS}, two samples a prompt."""
  comparisons, verdicts, prompts, clusters = [], [], [], []
  for code, names in told.items():
    for i, name in enumerate(names.split()):
      a, b = (
        judge.Answer(TEXTS[code] * n, True) for n in (2 + i % 3, 1 + i % 2)
      )
      comparisons.append(judge.Comparison(f"{code}/{i}", code, "?", a, b))
      verdicts.append(ORDERS[name])
      prompts.append(f"{code}/{i // 2}")
      clusters.append(str(i // 2))
  return comparison.summarize(
    comparisons,
    verdicts,
    prompts=prompts,
    clusters=clusters,
    seen=seen,
    seed=0,
    num_resamples=200,
    confidence=0.95,
  )


def test_prompts_count_the_same_whatever_their_samples_were_worth():
  summary = _summary(
    {
      "eng_Latn": "win win loss first",
      "rus_Cyrl": "win none none none tie loss",
      "tha_Thai": "loss loss",
    },
    seen=["eng_Latn", "tha_Thai"],
  )
  english, russian = (
    summary["win_rate"]["by_language"][c] for c in ("eng_Latn", "rus_Cyrl")
  )
  # Prompts: (win, win), (loss, tie).
  assert (english["win"], english["loss"], english["tie"]) == (50, 25, 25)
  # Prompts: (win), none, (tie, loss).
  assert (russian["win"], russian["loss"], russian["tie"]) == (50, 25, 25)
  assert russian["prompts"] == 2
  assert summary["win_rate"]["overall"]["delta"] == pytest.approx(-50 / 3)
  assert summary["win_rate"]["groups"]["seen"]["delta"] == (25 - 100) / 2
  assert summary["win_rate"]["groups"]["unseen"]["delta"] == 25


def test_what_has_no_verdict_is_counted_by_language():
  summary = _summary(
    {
      "hin_Deva": "win first none loss",
      "arb_Arab": "none none",
      "ell_Grek": "tie",
    }
  )
  hindi = summary["judging"]["hin_Deva"]
  assert hindi["comparisons"] == 4
  assert (hindi["no_verdict"], hindi["inconsistent"]) == (1, 1)
  # Verdicts A: win 1, first 2, none 1, loss 1; B: win 1, loss 1.
  assert (hindi["first"], hindi["second"]) == (5, 2)
  assert hindi["length_a"] == 4 * (2 + 3 + 4 + 2) / 4
  assert hindi["length_b"] == 4 * (1 + 2 + 1 + 2) / 4
  assert summary["unjudged_languages"] == ["arb_Arab"]
  assert set(summary["win_rate"]["by_language"]) == {"hin_Deva", "ell_Grek"}
  assert summary["judging"]["arb_Arab"]["no_verdict"] == 2


def test_a_judge_of_places_only_gives_only_ties():
  summary = _summary({"eng_Latn": "first first", "rus_Cyrl": "first first"})
  row = summary["win_rate"]["overall"]
  assert (row["tie"], row["delta"]) == (100, 0)
  assert summary["length_controlled"]["overall"]["delta"] == pytest.approx(0)
  assert summary["judging"]["rus_Cyrl"]["inconsistent"] == 2


def test_no_verdict_at_all_is_an_error():
  with pytest.raises(ValueError, match="no verdict in both orders on any of 2"):
    _summary({"eng_Latn": "none none"})
