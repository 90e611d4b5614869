"""Tests of the named sets of languages."""

import pytest

from mlm.languages import registry, sets


@pytest.mark.parametrize(
  "codes, size",
  [
    (sets.MC4, 101),
    (sets.MC4_LATIN, 6),
    (sets.AYA_101, 98),
    (sets.AYA_23, 23),
    (sets.ML_5, 5),
    (sets.HUNDRED, 100),
  ],
)
def test_sets_have_their_size_and_are_in_table_order(codes, size):
  positions = [registry.index(code) for code in codes]
  assert len(codes) == size
  assert positions == sorted(set(positions))


def test_mc4_and_its_latin_configs_are_the_configs_of_mc4():
  configs = {x.code for x in registry.languages() if x.mc4}
  assert {*sets.MC4, *sets.MC4_LATIN} == configs
  assert {registry.get(code).mc4 for code in sets.MC4_LATIN} == {
    "bg-Latn",
    "el-Latn",
    "hi-Latn",
    "ja-Latn",
    "ru-Latn",
    "zh-Latn",
  }


def test_aya_101_is_complete_with_the_languages_that_the_table_lacks():
  assert len(sets.AYA_101) + len(sets.AYA_101_ABSENT) == 101
  for code in sets.AYA_101_ABSENT:
    with pytest.raises(registry.UnknownLanguageError):
      registry.lookup("iso639_3", code)
  missing = {registry.get(c).mc4 for c in set(sets.MC4) - set(sets.AYA_101)}
  assert missing == {"co", "haw", "hmn"}


def test_the_smaller_sets_are_inside_the_larger():
  assert set(sets.ML_5) < set(sets.AYA_23) < set(sets.AYA_101)
  assert set(sets.AYA_23) < set(sets.HUNDRED)


def test_the_hundred_leave_out_hmong_alone():
  assert set(sets.MC4) - set(sets.HUNDRED) == {"hmn_Latn"}
