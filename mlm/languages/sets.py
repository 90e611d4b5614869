"""Named sets of languages, as tuples of canonical codes."""

from mlm.languages import registry


def _codes(condition) -> tuple[str, ...]:
  return tuple(x.code for x in registry.languages() if condition(x))


def _is_romanised(language: registry.Language) -> bool:
  return language.mc4.endswith("-Latn")


def mc4() -> tuple[str, ...]:
  """The 101 languages of mC4 (Xue et al. 2021, table 6)."""
  return _codes(lambda x: x.mc4 and not _is_romanised(x))


def mc4_latin() -> tuple[str, ...]:
  """The six languages that mC4 also has in Latin script."""
  return _codes(_is_romanised)


# Of Aya-101's languages these have no row in the table: mC4 and cld3 lack them.
AYA_101_MISSING = ("nso_Latn", "ory_Orya", "twi_Latn")


def aya_101() -> tuple[str, ...]:
  """The 98 of Aya-101's languages in the table; see `AYA_101_MISSING`."""
  return _codes(lambda x: x.aya101 and not _is_romanised(x))


# Source: Aryabumi et al. 2024 (Aya 23), as BCP 47.
_AYA_23 = "ar zh cs nl en fr de el he hi id it ja ko fa pl pt ro ru es tr uk vi"
# Source: Dang et al. 2024, the mixture ML-5.
_ML_5 = "en vi de tr pt"


def _of_tags(tags: str) -> tuple[str, ...]:
  return tuple(registry.lookup("bcp47", tag).code for tag in tags.split())


def aya_23() -> tuple[str, ...]:
  """The 23 languages of Aya 23."""
  return _of_tags(_AYA_23)


def ml_5() -> tuple[str, ...]:
  """English, Vietnamese, German, Turkish and Portuguese."""
  return _of_tags(_ML_5)


def hundred() -> tuple[str, ...]:
  """Our hundred: mC4's 101 without Latin, which no one speaks natively."""
  latin = registry.lookup("bcp47", "la").code
  return tuple(code for code in mc4() if code != latin)
