"""C4's rules on the lines of an English page.

Source: the C4 builder of TensorFlow Datasets. The paper (Raffel et al. 2020,
section 2.2) says five sentences and three words; the code that made the data
says three sentences and five words, and so do these rules.
"""

import re
from collections.abc import Callable

import apache_beam as beam

from beam_pipelines.filters import apply
from mlm.text import segment

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_END_MARKS = (".", "?", "!", '"')
_POLICY = (
  "terms of use",
  "privacy policy",
  "cookie policy",
  "uses cookies",
  "use of cookies",
  "use cookies",
)


STAGE = "sentence_lines"


def clean(
  text: str,
  *,
  max_word_characters: int,
  min_line_words: int,
  min_sentences: int,
  num_sentences: Callable[[str], int],
) -> tuple[str, str | None]:
  """Keeps the lines that read like sentences.

  Args:
    text: page.
    max_word_characters: a line with a longer word goes (C4: 1000).
    min_line_words: a line with fewer goes (C4: 5).
    min_sentences: a page with fewer in its last lines is dropped (C4: 3).
    num_sentences: of a line (C4: NLTK's Punkt for English).

  Returns:
    (text of the lines kept, None or why the page is dropped).
  """
  kept, sentences = [], 0
  for line in map(str.strip, text.splitlines()):
    if any(len(word) > max_word_characters for word in line.split()):
      continue
    line = _CITATION.sub("", line)
    if not line.endswith(_END_MARKS) or line.endswith("..."):
      continue
    if len(line.split()) < min_line_words:
      continue
    lower = line.lower()
    if "lorem ipsum" in lower:
      return "", "lorem_ipsum"
    if "javascript" in lower:
      continue
    if "{" in line:
      return "", "curly_bracket"
    if any(phrase in lower for phrase in _POLICY):
      continue
    sentences += num_sentences(line)
    kept.append(line)
  if sentences < min_sentences:
    return "", "few_sentences"
  return "\n".join(kept).strip(), None


def clean_pages(pages, **thresholds: int):
  """Pages -> (pages with the lines that `clean` keeps, dropped pages)."""

  def cleaned(page):
    text, reason = clean(
      page["text"],
      num_sentences=lambda line: len(segment.sentences(line)),
      **thresholds,
    )
    return (
      {**page, "drop": [STAGE, reason]} if reason else {**page, "text": text}
    )

  return apply.apply_several(
    pages | "clean lines" >> beam.Map(cleaned), STAGE, lambda page: page["drop"]
  )
