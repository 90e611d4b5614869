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
    registry.get(code).joshi_class for code in sets.MC4
  )
  assert classes == {5: 7, 4: 17, 3: 26, 2: 13, 1: 37, 0: 1}


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
    ("fineweb2", "cmn_Hani", "zho_Hani"),
    ("flores200", "zho_Hans", "zho_Hani"),
    ("iso639_3", "cmn", "zho_Hani"),
    ("iso639_3", "swh", "swh_Latn"),
    ("iso639_3", "prs", "pes_Arab"),
    ("iso639_3", "pbt", "pbt_Arab"),
    ("iso639_3", "rus", "rus_Cyrl"),
    ("bcp47", "iw", "heb_Hebr"),
    ("bcp47", "ji", "ydd_Hebr"),
    ("bcp47", "fa-AF", "pes_Arab"),
    ("bcp47", "EN_us", "eng_Latn"),
    ("bcp47", "zh_Hans_CN", "zho_Hani"),
    ("bcp47", "zho_Hant", "zho_Hani"),
    ("bcp47", "zh-Latn", "zho_Latn"),
    ("bcp47", "ko-Hang", "kor_Hang"),
    ("bcp47", "sr-Cyrl-RS", "srp_Cyrl"),
  ],
)
def test_traps_of_codes(source, code, expected):
  assert registry.lookup(source, code).code == expected


@pytest.mark.parametrize(
  "source, code",
  [
    ("bcp47", "und"),
    ("bcp47", "und-Latn"),
    ("bcp47", "sr-Latn"),
    ("bcp47", "en-Cyrl"),
    ("bcp47", "sh"),
    ("bcp47", "nn"),
    ("bcp47", "xx"),
    ("bcp47", ""),
    ("iso639_3", "ckb"),
    ("iso639_3", "sr"),
    ("flores200", "prs_Arab"),
    ("fineweb2", "eng_Latn"),  # FineWeb-2 has no English
    ("cld3", "he"),
    ("mc4", "bs"),
    ("code", "swh-Latn"),
  ],
)
def test_unknown_codes_are_never_guessed(source, code):
  with pytest.raises(registry.UnknownLanguageError, match=source):
    registry.lookup(source, code)


def test_the_error_suggests_the_nearest_code():
  with pytest.raises(registry.UnknownLanguageError, match="swh_Latn"):
    registry.get("swh_Latin")


@pytest.mark.parametrize(
  "source, code, words",
  [
    ("code", "sw", "'swh_Latn'"),
    ("code", "zho_Hans", "'zho_Hani'"),
    ("code", "Thai", "'tha_Thai'"),
    ("mc4", "heb_Hebr", "'iw'"),
    ("bcp47", "sr-Latn", "Serbian in Cyrl only"),
    ("iso639_3", "ckb", "kmr_Latn"),
    ("bcp47", "jp", "jpn_Jpan"),
    ("bcp47", "und", "leave the text out"),
  ],
)
def test_the_error_names_what_was_probably_meant(source, code, words):
  with pytest.raises(registry.UnknownLanguageError) as error:
    registry.lookup(source, code)
  assert words in str(error.value)


def test_the_canonical_code_is_floress_where_it_has_exactly_one():
  for language in registry.languages():
    if len(language.flores200) == 1:
      assert language.code == language.flores200[0]
    else:
      assert language.code == f"{language.iso639_3}_{language.script}"


def test_aya_groups_follow_the_classes():
  groups = {x.joshi_class: x.aya_group for x in registry.languages()}
  assert groups == {0: "LR", 1: "LR", 2: "LR", 3: "MR", 4: "HR", 5: "HR"}


def test_every_alias_points_into_the_table_or_says_why_not():
  for alias, target in registry._aliases().items():
    if target.code:
      assert registry.lookup("bcp47", alias) is registry.get(target.code)
    else:
      with pytest.raises(registry.UnknownLanguageError) as error:
        registry.lookup("bcp47", alias)
      assert target.note in str(error.value)
