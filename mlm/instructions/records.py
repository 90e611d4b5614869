"""Instruction records made from corpus documents, within token limits."""

import hashlib
import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from mlm.instructions import templates
from mlm.text import documents as documents_lib
from mlm.text import segment

_MARKS = ",;:، ؛،、，；：—–"


def _is_inside_character(text: str, position: int) -> bool:
  """True before a mark, after a virama or coeng, and after a Thai-Lao vowel
  that is written before its consonant."""
  before, after = text[position - 1], text[position]
  return (
    unicodedata.category(after)[0] == "M"
    or unicodedata.combining(before) == 9  # the class of viramas and coeng
    or before in "เแโใไເແໂໃໄ"
  )


def fit(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> str:
  """The longest start of `text` that fits, cut at the best place before.

  The cut is after a clause mark if one lies in the second half, else at a
  space, else (scripts without spaces) between two characters, so that no mark
  is parted from its letter. "" if nothing fits.

  Args:
    text: a sentence.
    count_tokens: text -> tokens.
    max_tokens: limit.
  """
  if count_tokens(text) <= max_tokens:
    return text
  low, high = 0, len(text)  # text[:low] fits, text[:high] does not
  while high - low > 1:
    middle = (low + high) // 2
    if count_tokens(text[:middle]) <= max_tokens:
      low = middle
    else:
      high = middle
  while low and _is_inside_character(text, low):
    low -= 1
  cut = text[:low]
  at_mark = max((cut.rfind(mark) for mark in _MARKS if mark != " "), default=-1)
  if at_mark >= low // 2:
    return cut[: at_mark + 1].strip()
  at_space = cut.rfind(" ")
  return (cut[:at_space] if at_space > 0 else cut).strip()


def _of_task(
  task: str,
  code: str,
  sentences: Sequence[str],
  rng: random.Random,
  fit_prompt: Callable[[str], str],
  fit_response: Callable[[str], str],
) -> tuple[str, str] | None:
  """(prompt, response) of a task, or None if the sentences do not allow it."""
  start = rng.randrange(len(sentences))
  text = fit_prompt(sentences[start])
  if task == "continue":
    is_whole = text == sentences[start]
    if is_whole and start + 1 == len(sentences):
      return None
    rest = sentences[start + 1] if is_whole else sentences[start][len(text) :]
    response = fit_response(rest.strip())
  elif task == "repeat":
    text = response = fit_response(text)
  else:
    response = templates.autonym(code) or ""
  if not text or not response:
    return None
  return templates.prompt(task, code, text), response


def make_records(
  documents: Iterable[documents_lib.Document],
  *,
  tasks: Sequence[str],
  count_tokens: Callable[[str], int],
  max_prompt_tokens: int,
  max_response_tokens: int,
  records_per_document: int,
  seed: int,
) -> Iterator[dict]:
  """Records of each document: a function of (seed, url) and the document.

  Args:
    documents: of one or several languages.
    tasks: of `templates.TASKS`.
    count_tokens: text -> tokens, without markers.
    max_prompt_tokens: of the whole prompt, instruction included.
    max_response_tokens: of the response, EOS not included.
    records_per_document: draws a document; unusable ones give no record.
    seed: any integer.

  Yields:
    {"id", "task", "language", "template_language", "prompt", "response",
    "source_url"}.
  """
  for document in documents:
    key = hashlib.sha256(f"{seed} {document.url}".encode()).hexdigest()
    rng = random.Random(key)
    sentences = segment.sentences(document.text)
    for number in range(records_per_document if sentences else 0):
      task = rng.choice(list(tasks))
      code = document.language
      instruction = count_tokens(templates.prompt(task, code, ""))
      made = _of_task(
        task,
        code,
        sentences,
        rng,
        # A piece may be cut differently after a newline: one token of slack.
        lambda t: fit(t, count_tokens, max_prompt_tokens - instruction - 1),  # noqa: B023
        lambda t: fit(t, count_tokens, max_response_tokens),
      )
      if (
        made
        and count_tokens(made[0]) <= max_prompt_tokens
        and count_tokens(made[1]) <= max_response_tokens
      ):
        yield {
          "id": f"{key[:16]}-{number}",
          "task": task,
          "language": code,
          "template_language": templates.template_language(code),
          "prompt": made[0],
          "response": made[1],
          "source_url": document.url,
        }


def write_records(path: str | os.PathLike, records: Iterable[dict]) -> int:
  """Writes JSON lines, whole or not at all; returns how many."""
  partial, count = f"{os.fspath(path)}.partial", 0
  with open(partial, "w", encoding="utf-8") as f:
    for record in records:
      f.write(json.dumps(record, ensure_ascii=False) + "\n")
      count += 1
  os.replace(partial, path)
  return count


def read_records(path: str | os.PathLike) -> list[dict]:
  """Reads JSON lines.

  Raises:
    FileNotFoundError: if the file is missing.
    ValueError: if a line is not JSON in UTF-8; the message has its number.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no records at {os.fspath(path)}; run the job that writes them first"
    )
  records = []
  with open(path, "rb") as f:
    for number, line in enumerate(f, start=1):
      try:
        records.append(json.loads(line.decode("utf-8")))
      except ValueError as error:
        raise ValueError(
          f"{os.fspath(path)}, line {number}: not JSON in UTF-8 ({error}); make "
          "the file again"
        ) from error
  return records
