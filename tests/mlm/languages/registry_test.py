"""The registry: counts of its sources, traps of codes, helpful errors."""

import collections

import pytest

from mlm.languages import registry, sets


def test_codes_are_unique_and_indexed_in_order():
  codes = registry.codes()
  assert len(codes) == len(set(codes)) == registry.NUM_LANGUAGES == 109
  assert [registry.index(code) for code in codes] == list(range(109))


def test_classes_of_the_101_languages_equal_the_published_counts():
  # Joshi et al. 2020 matched by name, not by code, as in the table's README.
  classes = collections.Counter(
    registry.get(code).joshi_class for code in sets.mc4()
  )
  assert classes == {5: 7, 4: 17, 3: 26, 2: 13, 1: 37, 0: 1}


def test_sets_have_their_published_sizes():
  assert len(sets.mc4()) == 101
  assert len(sets.mc4_latin()) == 6
  assert len(sets.aya_101()) + len(sets.AYA_101_MISSING) == 101
  assert len(set(sets.aya_23())) == 23
  assert set(sets.ml_5()) < set(sets.aya_23()) < set(sets.hundred())
  assert len(sets.hundred()) == 100


@pytest.mark.parametrize("source", ["code", "bcp47", "cld3", "mc4"])
def test_every_row_is_found_again_by_its_own_codes(source):
  for language in registry.languages():
    code = getattr(language, source)
    if code:
      assert registry.lookup(source, code) == language


@pytest.mark.parametrize(
  "source, code, expected",
  [
    ("cld3", "iw", "heb_Hebr"),
    ("bcp47", "he", "heb_Hebr"),
    ("bcp47", "in", "ind_Latn"),
    ("bcp47", "jw", "jav_Latn"),
    ("bcp47", "mo", "ron_Latn"),
    ("bcp47", "tl", "tgl_Latn"),
    ("bcp47", "fil", "tgl_Latn"),
    ("bcp47", "nb", "nob_Latn"),
    ("mc4", "no", "nob_Latn"),
    ("bcp47", "zh", "zho_Hani"),
    ("flores200", "zho_Hant", "zho_Hani"),
    ("flores200", "kor_Hang", "kor_Hang"),
    ("iso639_3", "swa", "swh_Latn"),
    ("iso639_3", "arb", "arb_Arab"),
    ("cld3", "ru-Latn", "rus_Latn"),
    ("fineweb2", "ekk_Latn", "est_Latn"),
  ],
)
def test_traps_of_codes(source, code, expected):
  assert registry.lookup(source, code).code == expected


@pytest.mark.parametrize("code", ["und", "sr-Latn", "xx", ""])
def test_unknown_codes_are_never_guessed(code):
  with pytest.raises(registry.UnknownLanguageError):
    registry.lookup("bcp47", code)


def test_the_error_suggests_the_nearest_code():
  with pytest.raises(registry.UnknownLanguageError, match="swh_Latn"):
    registry.get("swh_Latin")
