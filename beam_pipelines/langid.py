"""Language identification with cld3, in the registry's codes; no Beam here."""

import functools
import sys

from mlm.languages import registry

# cld3 looks at no more than this many bytes, taken from all over the text
# (TensorFlow Datasets, c4 builder).
_MAX_BYTES = 10_000


@functools.cache
def _identifier():
  if "tensorflow" in sys.modules and "gcld3" not in sys.modules:
    # Both bring their own protobuf; in this order the process would crash.
    raise RuntimeError(
      "cld3 cannot be loaded after TensorFlow; import gcld3 before tensorflow "
      "or seqio in this program"
    )
  import gcld3

  return gcld3.NNetLanguageIdentifier(0, _MAX_BYTES)


@functools.cache
def _code_of(label: str) -> str | None:
  try:
    return registry.lookup("cld3", label).code
  except registry.UnknownLanguageError:
    return None  # "und"


def identify(text: str) -> tuple[str | None, float]:
  """The most probable language of a text.

  How sure is sure enough is for the caller to say; cld3 itself calls 0.7
  reliable.

  Args:
    text: any text.

  Returns:
    (canonical code, probability in [0, 1]); (None, 0.0) for a text without
    letters, of which cld3 would say that it is Japanese at 0.78, and for what
    cld3 cannot tell.
  """
  if not any(map(str.isalpha, text)):
    return None, 0.0
  # cld3 reads C strings: a NUL would end the text.
  result = _identifier().FindLanguage(text=text.replace("\0", " "))
  code = _code_of(result.language)
  return code, float(result.probability) if code else 0.0


@functools.cache
def _second_codes() -> dict[str, str]:
  """Canonical codes by CLD2's label; several labels may name one language."""
  import pycld2

  codes = {}
  for label in {label for _, label in pycld2.LANGUAGES}:
    for source in ("cld3", "bcp47", "iso639_3"):
      try:
        codes[label] = registry.lookup(source, label).code
        break
      except registry.UnknownLanguageError:
        continue
  return codes


def second_agrees(text: str, code: str) -> bool | None:
  """Whether CLD2 names a language too; None if it has no label for it.

  cld3 gives a page of a language that it does not know a neighbour's label,
  and surely; CLD2 knows more languages, and errs on other pages.

  Args:
    text: any text.
    code: canonical code, of `identify`.
  """
  import pycld2

  codes = _second_codes()
  if code not in codes.values():
    return None
  try:
    _, _, found = pycld2.detect(text, isPlainText=True)
  except pycld2.error:  # CLD2 refuses control characters
    text = "".join(c if c.isprintable() else " " for c in text)
    _, _, found = pycld2.detect(text, isPlainText=True)
  return codes.get(found[0][1]) == code
