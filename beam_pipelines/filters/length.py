"""mC4's rules on the length of pages and lines."""


def page_length(text: str, *, max_characters: int) -> str | None:
  """Drops pages of more than `max_characters` characters, and empty ones."""
  if not text.strip():
    return "empty"
  return "too_long" if len(text) > max_characters else None


def long_lines(text: str, *, min_lines: int, min_characters: int) -> str | None:
  """Drops pages without `min_lines` lines of `min_characters` characters.

  Source: mC4 (Xue et al. 2021, section 3.1): at least three lines of 200
  characters or more.
  """
  lengths = sorted(
    (len(line.strip()) for line in text.split("\n")), reverse=True
  )
  if len(lengths) < min_lines:
    return "few_lines"
  if lengths[min_lines - 1] < min_characters:
    return "short_lines"
  return None
