"""Dropping degenerate instruction records, with counted reasons."""

import collections
from collections.abc import Iterable

from mlm.languages import registry
from mlm.text import scripts


def reason_to_drop(record: dict) -> str | None:
  """None to keep a record, or why not.

  "wrong_script": most letters of the text from the page (the response, or for
  name_language what the prompt shows) are not in the script of the language.
  """
  prompt, response = record["prompt"], record["response"]
  if not any(c.isalpha() for c in response):
    return "no_letters"
  if "\ufffd" in prompt + response:
    return "replacement_character"
  shown = prompt.partition("\n")[2]
  if record["task"] == "continue" and response in shown:
    return "response_in_prompt"
  text = shown if record["task"] == "name_language" else response
  script = registry.get(record["language"]).script
  if scripts.script_share(text, script) <= 0.5:
    return "wrong_script"
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
