"""Preference pairs from the public formats, one row of a file at a time.

A reader maps a row to a list of pairs {"language", "prompt", "chosen",
"rejected", "margin"} and raises ValueError, with a reason of one word before
the colon, where the row cannot be used. A prompt is a text, or the turns of a
conversation that begins and ends with the user's.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlm.languages import registry

Reader = Callable[[Mapping[str, Any]], list[dict[str, Any]]]
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_ROLES = {"user": 0, "prompter": 0, "human": 0, "assistant": 1}


def all_in(code: str) -> Callable[[Mapping[str, Any]], str]:
  """Every row is in one language; refuses an unknown code."""
  code = registry.get(code).code
  return lambda row: code


def by_field(field: str, source: str) -> Callable[[Mapping[str, Any]], str]:
  """The language of a row is in one of its fields.

  Args:
    field: its name.
    source: whose codes those are, of `registry.lookup`.
  """

  def language_of(row):
    if field not in row:
      raise ValueError(f"language: the row has no field {field!r}")
    try:
      return registry.lookup(source, str(row[field])).code
    except registry.UnknownLanguageError as error:
      raise ValueError(f"language: {error}") from error

  return language_of


def _text(value: Any, what: str) -> str:
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f"empty: the {what} is {value!r}; a text is needed")
  return value.strip()


def _prompt(turns: Sequence[str]) -> str | list[str]:
  """A single turn as text; checks that the user has the first and the last."""
  if len(turns) % 2 == 0:
    raise ValueError(
      f"turns: the prompt has {len(turns)} turns; an odd number is needed, the "
      "first and the last of the user"
    )
  return turns[0] if len(turns) == 1 else list(turns)


def _pair(
  language: str,
  turns: Sequence[str],
  chosen: Any,
  rejected: Any,
  margin: float = 0.0,
) -> dict[str, Any]:
  pair = {
    "language": language,
    "prompt": _prompt([_text(turn, "prompt") for turn in turns]),
    "chosen": _text(chosen, "chosen response"),
    "rejected": _text(rejected, "rejected response"),
    "margin": margin,
  }
  if pair["chosen"] == pair["rejected"]:
    raise ValueError("equal: both responses are the same")
  return pair


def ranked_pairs(
  language: str,
  turns: Sequence[str],
  scored: Sequence[tuple[Any, float]],
  *,
  rule: str,
  has_margins: bool,
) -> list[dict[str, Any]]:
  """Pairs of responses to one prompt whose scores differ.

  Args:
    language: of the prompt.
    turns: of the prompt.
    scored: (response, score), the better the higher.
    rule: "all" pairs, or "extremes": the best, first one of equals, over the
      worst.
    has_margins: whether the difference of scores is a margin; ranks have none.

  Raises:
    ValueError: if the rule is unknown, or nothing differs.
  """
  if rule not in ("all", "extremes"):
    raise ValueError(f"rule {rule!r} must be 'all' or 'extremes'")
  order = sorted(scored, key=lambda of: -of[1])
  chosen = list(itertools.combinations(order, 2))
  if rule == "extremes":
    chosen = [(order[0], order[-1])] if len(order) > 1 else []
  pairs = [
    _pair(language, turns, better, worse, high - low if has_margins else 0.0)
    for (better, high), (worse, low) in chosen
    if high > low
  ]
  if not pairs:
    raise ValueError(
      f"ties: {len(scored)} scored responses, no two of which differ"
    )
  return pairs


def _dialogue(text: Any) -> list[str]:
  """Turns of a transcript of Human and Assistant, the user's first."""
  if not isinstance(text, str) or not text.startswith(_HUMAN):
    raise ValueError(f"turns: the transcript begins with {str(text)[:20]!r}")
  turns = []
  for part in text[len(_HUMAN) :].split(_HUMAN):
    human, *rest = part.split(_ASSISTANT)
    if len(rest) > 1:
      raise ValueError("turns: two of the assistant follow each other")
    turns += [human.strip(), *(turn.strip() for turn in rest)]
  if len(turns) % 2:
    raise ValueError("turns: the transcript does not end with the assistant's")
  return turns


def hh_rlhf(*, language_of: Callable[[Mapping[str, Any]], str]) -> Reader:
  """{"chosen", "rejected"}: two transcripts that share all but the last turn.

  Args:
    language_of: row -> code.

  Source: Bai et al. 2022, the files of Anthropic's hh-rlhf.
  """

  def read(row):
    chosen, rejected = (
      _dialogue(row.get(side)) for side in ("chosen", "rejected")
    )
    if chosen[:-1] != rejected[:-1]:
      raise ValueError("prompts: the two transcripts differ before the end")
    return [_pair(language_of(row), chosen[:-1], chosen[-1], rejected[-1])]

  return read


def _messages(value: Any, what: str, *, first: int) -> list[str]:
  """Turns of {"role", "content"} that alternate; a text is one turn.

  Args:
    value: of the row.
    what: it is, for messages.
    first: whose turn the first is, 0 the user's and 1 the assistant's.
  """
  if isinstance(value, str):
    return [value]
  if not isinstance(value, list) or not value:
    raise ValueError(f"empty: the {what} is {value!r}")
  for place, message in enumerate(value):
    role = message.get("role")
    if _ROLES.get(role) != (first + place) % 2:
      raise ValueError(f"turns: {role!r} has turn {place} of the {what}")
  return [message.get("content") for message in value]


def trl(*, language_of: Callable[[Mapping[str, Any]], str]) -> Reader:
  """TRL's preference datasets: {"prompt", "chosen", "rejected"} or without prompt.

  Each is a text or a list of {"role", "content"}. Without a prompt, or where
  the responses repeat it (UltraFeedback as binarised for Zephyr), both
  conversations are whole, and their shared turns are the prompt.

  Args:
    language_of: row -> code.
  """

  def read(row):
    sides = [row.get(side) for side in ("chosen", "rejected")]
    are_whole = all(
      isinstance(side, list) and side and side[0].get("role") != "assistant"
      for side in sides
    )
    if are_whole:
      chosen, rejected = (
        _messages(side, "conversation", first=0) for side in sides
      )
      if chosen[:-1] != rejected[:-1]:
        raise ValueError("prompts: the conversations differ before the end")
      return [_pair(language_of(row), chosen[:-1], chosen[-1], rejected[-1])]
    if "prompt" not in row:
      raise ValueError("prompts: no prompt, and the responses are no dialogues")
    turns = _messages(row["prompt"], "prompt", first=0)
    chosen, rejected = (_messages(side, "response", first=1) for side in sides)
    if len(chosen) != 1 or len(rejected) != 1:
      raise ValueError("turns: a response has more than one turn")
    return [_pair(language_of(row), turns, chosen[0], rejected[0])]

  return read


def ultrafeedback(
  *, language_of: Callable[[Mapping[str, Any]], str], rule: str
) -> Reader:
  """{"instruction", "completions": [{"response", "overall_score"}]}.

  Args:
    language_of: row -> code.
    rule: of `ranked_pairs`; the difference of scores is the margin.

  Source: Cui et al. 2023 (UltraFeedback).
  """

  def read(row):
    scored = []
    for completion in row.get("completions") or []:
      score = completion.get("overall_score")
      if not isinstance(score, int | float):
        raise ValueError(f"score: overall_score is {score!r}")
      scored.append((completion.get("response"), float(score)))
    return ranked_pairs(
      language_of(row),
      [row.get("instruction")],
      scored,
      rule=rule,
      has_margins=True,
    )

  return read


def oasst(*, rule: str) -> Reader:
  """Trees of OpenAssistant: {"prompt": message with "replies", …}, by "lang".

  Wherever several replies of the assistant were ranked (0 is the best), they
  give pairs under the conversation before them. Deleted messages, those that
  failed review and those without a rank are left out with what follows them.

  Args:
    rule: of `ranked_pairs`; ranks have no margin.

  Source: Köpf et al. 2023 (OpenAssistant Conversations).
  """
  language_of = by_field("lang", "bcp47")

  def read(row):
    pairs = []

    def visit(message, turns):
      turns = [*turns, message.get("text")]
      replies = [
        reply
        for reply in message.get("replies") or []
        if not reply.get("deleted") and reply.get("review_result") is not False
      ]
      if message.get("role") == "prompter":
        ranked = [r for r in replies if r.get("rank") is not None]
        scored = [(r.get("text"), -float(r["rank"])) for r in ranked]
        if len({score for _, score in scored}) > 1:
          pairs.extend(
            ranked_pairs(
              language_of(message), turns, scored, rule=rule, has_margins=False
            )
          )
      for reply in replies:
        visit(reply, turns)

    root = row.get("prompt")
    if not isinstance(root, Mapping):
      raise ValueError("tree: no message under 'prompt'")
    visit(root, [])
    if not pairs:
      raise ValueError("ties: no prompt of the tree has two ranked replies")
    return pairs

  return read
