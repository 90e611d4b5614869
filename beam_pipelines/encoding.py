"""Repair of text that was decoded with the wrong charset.

Mojibake, escaped HTML and control characters are repaired; ligatures, the width
of characters, quotes and Unicode's normal form are the writer's, and stay.
Source: the settings of FineWeb2's published pipeline (datatrove 0.10).
"""

import re

import ftfy
from ftfy import badness

_CONFIG = ftfy.TextFixerConfig(
  fix_latin_ligatures=False,
  fix_character_width=False,
  uncurl_quotes=False,
  fix_line_breaks=False,
  normalization=None,
  explain=False,
)
# What any of the other fixes looks for; escapes, controls, half surrogate pairs.
_SUSPECT = re.compile(
  "[&\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f"
  "\\u206a-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffc]"
)


def repair(text: str) -> str:
  """The text as it was meant; most pages come back as they are."""
  # ftfy looks at every line many times, for nothing if the page is sound.
  if not _SUSPECT.search(text) and not badness.is_bad(text):
    return text
  return ftfy.fix_text(text, _CONFIG)
