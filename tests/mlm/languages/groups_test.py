"""Groups by which results are reported."""

import pytest

from mlm.languages import groups, registry


@pytest.mark.parametrize("grouping", groups.GROUPINGS)
def test_every_language_is_in_exactly_one_group(grouping):
  found = groups.members(registry.codes(), grouping)
  members = [code for codes in found.values() for code in codes]
  assert sorted(members) == sorted(registry.codes())


def test_classes_of_known_languages():
  # Joshi et al. 2020: English 5, Hindi 4, Hebrew 3, Swahili 2, Somali 1.
  codes = ["som_Latn", "eng_Latn", "heb_Hebr", "hin_Deva", "swh_Latn"]
  found = groups.members(codes, "joshi_class")
  assert list(found.items()) == [
    ("5", ["eng_Latn"]),
    ("4", ["hin_Deva"]),
    ("3", ["heb_Hebr"]),
    ("2", ["swh_Latn"]),
    ("1", ["som_Latn"]),
  ]


def test_scripts_are_ordered_by_their_number_of_languages():
  codes = ["tha_Thai", "rus_Cyrl", "eng_Latn", "ukr_Cyrl", "fra_Latn"]
  found = groups.members([*codes, "vie_Latn"], "script")
  assert list(found) == ["Latn", "Cyrl", "Thai"]


def test_an_unknown_grouping_is_refused():
  with pytest.raises(ValueError, match="'continent'; choose one of joshi"):
    groups.members(["eng_Latn"], "continent")


def test_a_macro_average_gives_each_language_one_vote():
  values = {"eng_Latn": 1.0, "fra_Latn": 4.0}
  assert groups.macro_average(values, ["eng_Latn", "fra_Latn"]) == 2.5
  assert groups.macro_average(values, ["eng_Latn", "tha_Thai"]) == 1.0
  assert groups.macro_average(values, ["tha_Thai"]) is None
