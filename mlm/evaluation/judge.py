"""Judges: functions that say which of two answers to a prompt is better.

A verifier, a reward model, a chat model behind HTTP and people behind a file
are all of one shape. Every judge is asked twice, with the answers in both
orders, because most have a liking for one of the places.

Training rewards the language that cld3 names. A policy could learn what pleases
cld3 rather than the language, so the verifier here asks another identifier,
py3langid (a naive Bayes model over byte n-grams, Lui & Baldwin 2012).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlm.alignment import rewards
from mlm.languages import registry

# What a judge says of a comparison: which answer is better, that neither is, or
# nothing, because it does not know the language or did not keep to the form.
A, B, TIE, NO_VERDICT = "A", "B", "TIE", "NO_VERDICT"
VERDICTS = (A, B, TIE, NO_VERDICT)
Verdict = str


class Answer(NamedTuple):
  """One response.

  Attributes:
    text: of it.
    ended: whether the policy ended it, rather than the limit of its length.
  """

  text: str
  ended: bool


class Comparison(NamedTuple):
  """Two answers to a prompt, in the order in which a judge sees them.

  Attributes:
    id: its name, unlike that of others.
    language: canonical code that the answers should be in.
    prompt: text, or the turns of a conversation, the user's first and last.
    a: the answer shown first.
    b: the other.
  """

  id: str
  language: str
  prompt: str | tuple[str, ...]
  a: Answer
  b: Answer


Judge = Callable[[Sequence[Comparison]], list[Verdict]]
# (language, prompt, answer) of each -> float [N], nan where it cannot say.
Score = Callable[
  [Sequence[tuple[str, str | tuple[str, ...], Answer]]], np.ndarray
]


def shown_prompt(prompt: str | tuple[str, ...]) -> str:
  """A prompt as one text, the speakers of a conversation named."""
  if isinstance(prompt, str):
    return prompt
  speakers = ("User", "Assistant")
  return "\n\n".join(
    f"{speakers[i % 2]}: {turn}" for i, turn in enumerate(prompt)
  )


def in_both_orders(
  judge: Judge, comparisons: Sequence[Comparison]
) -> list[tuple[Verdict, Verdict]]:
  """What a judge says of each comparison, and of it with A and B swapped.

  All are asked in one call, so that a slow judge can answer many at a time.

  Raises:
    ValueError: if two comparisons have the same id, or the judge does not give
      one of `VERDICTS` for each.
  """
  if len({c.id for c in comparisons}) != len(comparisons):
    raise ValueError(
      "two comparisons have the same id; give each prompt and sample its own"
    )
  swapped = [
    c._replace(id=f"{c.id} swapped", a=c.b, b=c.a) for c in comparisons
  ]
  told = judge([*comparisons, *swapped])
  unknown = sorted(set(map(str, told)) - set(VERDICTS))
  if len(told) != 2 * len(comparisons) or unknown:
    raise ValueError(
      f"the judge gave {len(told)} verdicts for {2 * len(comparisons)} "
      f"comparisons, unknown ones among them: {unknown}; it must give one of "
      f"{', '.join(VERDICTS)} for each"
    )
  return list(zip(told[: len(comparisons)], told[len(comparisons) :]))


def outcome(forward: Verdict, swapped: Verdict) -> Verdict:
  """The verdict of both orders: A or B only if it does not depend on them.

  Args:
    forward: said of answers a and b.
    swapped: said of b and a.

  Returns:
    A where both prefer a, B where both prefer b, NO_VERDICT where one is
    missing, else TIE.
  """
  if NO_VERDICT in (forward, swapped):
    return NO_VERDICT
  return {(A, B): A, (B, A): B}.get((forward, swapped), TIE)


def of_scores(score: Score, *, margin: float) -> Judge:
  """The judge that prefers the answer with the higher score.

  Args:
    score: scores answers one by one; asked once for each different one.
    margin: differences up to this are ties, >= 0.
  """
  if margin < 0:
    raise ValueError(f"margin {margin} must be 0 or more")

  def judge(comparisons):
    place: dict = {}
    for c in comparisons:
      for answer in (c.a, c.b):
        place.setdefault((c.language, c.prompt, answer), len(place))
    scores = np.asarray(score(list(place)), np.float64)

    def verdict(c):
      a, b = (
        scores[place[c.language, c.prompt, answer]] for answer in (c.a, c.b)
      )
      if np.isnan(a - b):
        return NO_VERDICT
      return TIE if abs(a - b) <= margin else A if a > b else B

    return [verdict(c) for c in comparisons]

  return judge


def verifiable_score(
  *,
  identify: rewards.Identify,
  known: Sequence[str],
  encode: Callable[[str], Sequence[int]],
) -> Score:
  """The sum of `mlm.alignment.rewards.PARTS`, in [0, 3], from text alone.

  Args:
    identify: text -> (code or None, probability); not the training's.
    known: the languages it can name; others are not scored.
    encode: text -> tokens, whose repetition is counted.
  """

  def score(answers):
    return np.array(
      [
        sum(
          rewards.verifiable_parts(
            text=answer.text,
            tokens=encode(answer.text),
            ended=answer.ended,
            language=language,
            identify=identify,
          ).values()
        )
        if language in known
        else np.nan
        for language, _, answer in answers
      ]
    )

  return score


def second_identifier(
  languages: Sequence[str],
) -> tuple[Callable[[str], tuple[str | None, float]], tuple[str, ...]]:
  """An identifier restricted to the languages it knows among those given.

  Args:
    languages: canonical codes.

  Returns:
    (identify, known): identify maps text to (canonical code, probability), or
    (None, 0.0) for text without letters; known are the codes it can name.
  """
  from py3langid import langid

  identifier = langid.LanguageIdentifier.from_model_file(
    langid.MODEL_FILE, norm_probs=True
  )
  label_of = {}
  for code in languages:
    language = registry.get(code)
    for label in (language.bcp47, language.mc4, language.iso639_3):
      if label in identifier.labels:
        label_of[code] = label
        break
  identifier.set_languages(sorted(set(label_of.values())))
  code_of = {label: code for code, label in label_of.items()}

  def identify(text: str) -> tuple[str | None, float]:
    if not any(character.isalpha() for character in text):
      return None, 0.0
    label, probability = identifier.classify(text)
    return code_of[label], float(probability)

  return identify, tuple(label_of)
