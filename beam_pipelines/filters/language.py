"""mC4's rule on the identified language, and a check of its script."""

from collections.abc import Collection

from mlm.languages import registry
from mlm.text import scripts


def language(
  text: str,
  code: str | None,
  probability: float,
  *,
  languages: Collection[str] | None,
  min_probability: float,
  min_script_share: float,
) -> str | None:
  """Drops pages whose language is unknown, unsure, unlikely or not wanted.

  Args:
    text: page.
    code: identified language, None if there is none.
    probability: of it, in [0, 1].
    languages: codes to keep; None keeps all.
    min_probability: drop below it.
    min_script_share: drop if fewer of the letters, as a share in [0, 1], are in
      the script of the language.
  """
  if code is None:
    return "undetermined"
  if probability < min_probability:
    return "low_confidence"
  script = registry.get(code).script
  if min_script_share and scripts.script_share(text, script) < min_script_share:
    return "other_script"
  if languages is not None and code not in languages:
    return "unlisted_language"
  return None
