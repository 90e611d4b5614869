"""Dropping degenerate instruction records, with counted reasons."""

import collections
from collections.abc import Iterable


def reason_to_drop(record: dict) -> str | None:
  """None to keep a record, or why not."""
  prompt, response = record["prompt"], record["response"]
  if not any(c.isalpha() for c in response):
    return "no_letters"
  if "\ufffd" in prompt + response:
    return "replacement_character"
  shown = prompt.partition("\n")[2]
  if record["task"] == "continue" and response in shown:
    return "response_in_prompt"
  return None


def keep_good(
  records: Iterable[dict],
) -> tuple[list[dict], collections.Counter]:
  """The records to keep, and a Counter of reasons for the others."""
  kept, reasons = [], collections.Counter()
  for record in records:
    reason = reason_to_drop(record)
    if reason:
      reasons[reason] += 1
    else:
      kept.append(record)
  return kept, reasons
