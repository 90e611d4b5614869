"""Language identification with cld3, in the registry's codes; no Beam here."""

import functools
import sys

from mlm.languages import registry

# cld3 looks at no more than this many bytes (mC4, TensorFlow Datasets builder).
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
    return None  # "und", what cld3 says of text without letters


def identify(text: str) -> tuple[str | None, float]:
  """The most probable language of a text.

  Args:
    text: any text; the first 10,000 bytes count.

  Returns:
    (canonical code, probability in [0, 1]); (None, 0.0) if cld3 finds nothing
    to go by.
  """
  # cld3 reads C strings: a NUL would end the text.
  result = _identifier().FindLanguage(text=text.replace("\0", " "))
  code = _code_of(result.language)
  return code, float(result.probability) if code else 0.0
