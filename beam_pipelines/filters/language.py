"""mC4's rule on the identified language, and checks of script and detector."""

from collections.abc import Collection, Mapping


def language(
  page: Mapping,
  *,
  languages: Collection[str] | None,
  min_probability: float,
  min_script_share: float,
) -> str | None:
  """Drops pages whose language is unknown, unsure, unlikely or not wanted.

  Args:
    page: with language (None if there is none), language_probability,
      script_share and, if there is a second detector, second_agrees.
    languages: codes to keep; None keeps all.
    min_probability: drop below it.
    min_script_share: drop if fewer of the letters, as a share in [0, 1], are in
      the script of the language.
  """
  code = page["language"]
  if code is None:
    return "undetermined"
  if page["language_probability"] < min_probability:
    return "low_confidence"
  if page["script_share"] < min_script_share:
    return "other_script"
  if page.get("second_agrees") is False:
    return "second_detector"
  if languages is not None and code not in languages:
    return "unlisted_language"
  return None
