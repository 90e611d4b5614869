"""The registry of languages: 109 rows of facts and strict lookups by source.

A language is named by its canonical code `iso639-3_Script`: the FLORES-200 code
where the row has exactly one, else ISO 639-3 and the script of the row. The
position of a row in `table.tsv` is its language id in batches and metrics, so
rows are only ever appended.

Nothing here guesses. CLDR's likely subtags turn an unknown code into Latin
script and `und` into English; here both raise `UnknownLanguageError`.
"""

import csv
import dataclasses
import difflib
import functools
import pathlib
import re
from collections.abc import Sequence

NUM_LANGUAGES = 109  # the length of every per-language metric vector

SOURCES = (
  "bcp47",
  "cld3",
  "mc4",
  "flores200",
  "fineweb2",
  "iso639_3",
  "code",
)

_FOLDER = pathlib.Path(__file__).parent
# Scripts a tag may name for a row of the given script, beside that script.
_SUBSUMED_SCRIPTS = {
  "Hani": ("Hans", "Hant"),
  "Kore": ("Hang",),
}
_TAG = re.compile(
  r"(?P<language>[a-z]{2,3})"
  r"(?:-(?P<script>[A-Z][a-z]{3}))?"
  r"(?:-(?P<region>[A-Z]{2}|[0-9]{3}))?"
)


class UnknownLanguageError(ValueError):
  """A code that the table does not have; the message names the nearest."""


@dataclasses.dataclass(frozen=True)
class Language:
  """One row of `table.tsv`; README.md beside it has the source of each column.

  Attributes:
    code: canonical code, `iso639-3_Script`.
    name: English name.
    bcp47: modern BCP 47 tag, e.g. "he".
    cld3: label of the cld3 detector, e.g. "iw".
    mc4: config name in mC4; "" for Bosnian and Croatian, which it lacks.
    iso639_3: ISO 639-3 code.
    scope: "individual" or "macrolanguage" in ISO 639-3.
    script: ISO 15924 script of the text; Kore, Jpan and Hani for ko, ja, zh.
    scripts_attested: scripts the language is also written in.
    direction: "ltr" or "rtl".
    word_separator: "space", or "none" where words are written together.
    family: root of the Glottolog tree; "" for Esperanto and Hmong.
    glottocode: code in Glottolog 5.2; "" if unconfirmed.
    joshi_class: 0 to 5, resources in the taxonomy of Joshi et al. 2020.
    joshi_name: the name in their file that the class was read at.
    speakers: people, all speakers, rounded; None if unknown.
    flores200: codes of FLORES-200, none, one or (Chinese) two.
    fineweb2: config name in FineWeb-2; "" if it has none.
    aya101: True if the Aya-101 model card lists the language.
    premium_mt5: tokens relative to English on FLORES-200 with mT5's tokenizer.
    premium_bloom: the same for BLOOM.
    premium_llama1: the same for LLaMA 1.
    premium_cl100k: the same for cl100k_base.
  """

  code: str
  name: str
  bcp47: str
  cld3: str
  mc4: str
  iso639_3: str
  scope: str
  script: str
  scripts_attested: tuple[str, ...]
  direction: str
  word_separator: str
  family: str
  glottocode: str
  joshi_class: int
  joshi_name: str
  speakers: int | None
  flores200: tuple[str, ...]
  fineweb2: str
  aya101: bool
  premium_mt5: float | None
  premium_bloom: float | None
  premium_llama1: float | None
  premium_cl100k: float | None

  @property
  def aya_group(self) -> str:
    """HR, MR or LR: high (4-5), mid (3) and low (0-2) resource, as in Aya."""
    return ("LR", "LR", "LR", "MR", "HR", "HR")[self.joshi_class]


def _parse_row(row: dict[str, str]) -> Language:
  values: dict = dict(row)
  for name in ("scripts_attested", "flores200"):
    values[name] = tuple(row[name].split(",")) if row[name] else ()
  values["joshi_class"] = int(row["joshi_class"])
  values["speakers"] = int(row["speakers"]) if row["speakers"] else None
  values["aya101"] = row["aya101"] == "y"
  for name in row:
    if name.startswith("premium_"):
      values[name] = float(row[name]) if row[name] else None
  return Language(**values)


def _read_rows(name: str) -> list[dict[str, str]]:
  text = (_FOLDER / name).read_text(encoding="utf-8")
  return list(csv.DictReader(text.splitlines(), delimiter="\t"))


@functools.cache
def languages() -> tuple[Language, ...]:
  """All languages, in table order."""
  return tuple(_parse_row(row) for row in _read_rows("table.tsv"))


@functools.cache
def codes() -> tuple[str, ...]:
  """All canonical codes, in table order."""
  return tuple(language.code for language in languages())


@functools.cache
def _positions() -> dict[str, int]:
  return {code: position for position, code in enumerate(codes())}


def index(code: str) -> int:
  """Position of a canonical code in the table: its language id (int32)."""
  try:
    return _positions()[code]
  except KeyError:
    raise _unknown("code", code) from None


def indices(codes: Sequence[str]) -> tuple[int, ...]:
  """`index` of each code."""
  return tuple(index(code) for code in codes)


def get(code: str) -> Language:
  """The language of a canonical code, e.g. `get("swh_Latn")`.

  Raises:
    UnknownLanguageError: if the table lacks the code; the message says which
      canonical code was probably meant.
  """
  return languages()[index(code)]


@functools.cache
def _by_source(source: str) -> dict[str, Language]:
  """Mapping code in `source` -> language; the exact codes of that source."""
  found = {}
  for language in languages():
    names = getattr(language, source)
    if source == "iso639_3" and not _is_default_script(language):
      continue
    for name in (names,) if isinstance(names, str) else names:
      if name:
        found[name] = language
  if source == "iso639_3":
    for alias, target in _aliases().items():
      if len(alias) == 3 and target.code:
        found[alias] = get(target.code)
  return found


def _is_default_script(language: Language) -> bool:
  """False for the six rows such as ru-Latn, whose tag has to name a script."""
  return "-" not in language.bcp47


@dataclasses.dataclass(frozen=True)
class _Alias:
  code: str
  note: str


@functools.cache
def _aliases() -> dict[str, _Alias]:
  return {
    row["alias"]: _Alias(row["code"], row["note"])
    for row in _read_rows("aliases.tsv")
  }


def lookup(source: str, code: str) -> Language:
  """The language that `source` calls `code`.

  Every source is strict about its own codes: mC4 and cld3 say `iw`, FLORES-200
  says `heb_Hebr`, and neither knows the other's. Two are wider:
  "iso639_3" also takes the members of a macrolanguage that the row stands for
  (`arb`, `swh`); "bcp47" takes any tag language[-Script][-REGION] in either
  case and with either separator, deprecated languages (`iw`, `in`) and ISO
  639-3 languages included. A script must be the row's (`sr-Latn` is unknown: the
  table's Serbian is Cyrillic), and a region is dropped.

  Args:
    source: one of `SOURCES`.
    code: the code as the source writes it.

  Returns:
    The row of the table.

  Raises:
    UnknownLanguageError: if no row has the code; use a code the message names,
      or leave the text out.
    ValueError: if `source` is not one of `SOURCES`.
  """
  if source not in SOURCES:
    raise ValueError(
      f"unknown source of language codes {source!r}; use one of {SOURCES}"
    )
  if source == "bcp47":
    return _lookup_tag(code)
  try:
    return _by_source(source)[code]
  except KeyError:
    raise _unknown(source, code) from None


def _standard_tag(code: str) -> str:
  """Hyphens for underscores, and the case BCP 47 recommends for each subtag."""
  language, *rest = code.replace("_", "-").split("-")
  cased = [part.title() if len(part) == 4 else part.upper() for part in rest]
  return "-".join([language.lower(), *cased])


def _lookup_tag(code: str) -> Language:
  match = _TAG.fullmatch(_standard_tag(code))
  if not match:
    raise _unknown("bcp47", code)
  base, script = match["language"], match["script"]
  alias = _aliases().get(base)
  if alias is not None and alias.code:
    default = get(alias.code)
  else:
    default = _by_source("bcp47").get(base) or _by_source("iso639_3").get(base)
  if default is None:
    raise _unknown("bcp47", code)
  if script in (None, default.script):
    return default
  if script in _SUBSUMED_SCRIPTS.get(default.script, ()):
    return default
  other = _by_source("bcp47").get(f"{default.bcp47}-{script}")
  if other is None:
    raise _unknown(
      "bcp47",
      code,
      f"the table has {default.name} in {default.script} only "
      f"({default.bcp47!r}); leave the text out",
    )
  return other


def _unknown(source: str, code: str, reason: str = "") -> UnknownLanguageError:
  """Builds the error: why the code is refused, or the nearest known codes."""
  code = str(code)
  base = re.split("[-_]", code)[0].lower()
  alias = _aliases().get(base)
  if not reason and alias is not None and not alias.code:
    reason = f"{alias.note}; leave the text out"
  if not reason:
    nearest = ", ".join(_nearest(source, code))
    reason = (
      f"the nearest known are {nearest}; use one of them or leave the text out"
    )
  kind = "canonical" if source == "code" else source
  return UnknownLanguageError(
    f"unknown {kind} language code {code!r}: {reason}"
  )


def _nearest(source: str, code: str) -> list[str]:
  """Codes of `source` for what another source calls `code`, then by spelling."""
  known = _by_source(source)
  found = []
  for language in languages():
    others = {language.name.lower(), language.code, language.bcp47}
    others.update((language.cld3, language.iso639_3, *language.flores200))
    if code in others or code.lower() in others:
      found += [name for name, row in known.items() if row == language]
  # A cut-off of 0 makes sure that something is always suggested.
  found += difflib.get_close_matches(code, known, n=3, cutoff=0.0)
  return [repr(name) for name in dict.fromkeys(found)][:3]
