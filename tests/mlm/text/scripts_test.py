"""Tests of script detection."""

import pytest

from mlm.languages import registry
from mlm.text import scripts


@pytest.mark.parametrize(
  "character, expected",
  [
    ("a", "Latn"),
    ("ﬁ", "Latn"),
    ("Ａ", "Latn"),
    ("ế", "Latn"),
    ("ж", "Cyrl"),
    ("λ", "Grek"),
    ("ա", "Armn"),
    ("ა", "Geor"),
    ("ש", "Hebr"),
    ("ض", "Arab"),
    ("አ", "Ethi"),
    ("ก", "Thai"),
    ("่", "Thai"),
    ("ກ", "Laoo"),
    ("្", "Khmr"),
    ("မ", "Mymr"),
    ("ि", "Deva"),
    ("க", "Taml"),
    ("한", "Hang"),
    ("漢", "Hani"),
    ("々", "Hani"),
    ("の", "Hira"),
    ("ー", "Kana"),
    ("ｱ", "Kana"),
    ("ᚠ", scripts.UNCODED),
    ("7", None),
    ("٣", None),
    ("。", None),
    (" ", None),
    ("\u0301", None),
    ("\ufffd", None),
    ("🙂", None),
  ],
)
def test_script_of_a_character(character, expected):
  assert scripts.script_of(character) == expected


@pytest.mark.parametrize(
  "text, script, share",
  [
    ("Habari za asubuhi", "Latn", 1.0),
    ("日本語の文章です。", "Jpan", 1.0),
    ("한국어 漢字 혼용", "Kore", 1.0),
    ("中文网页", "Hani", 1.0),
    # One kana among 28 Han characters is a quotation, not Japanese.
    ("中文" * 14 + "の", "Hani", 1.0),
    ("ab где", "Cyrl", 0.6),
    ("สวัสดี", "Thai", 1.0),
    ("አማርኛ ok", "Ethi", 4 / 6),
    ("12 + 3 = ?", None, 0.0),
    ("", None, 0.0),
  ],
)
def test_main_script_and_its_share(text, script, share):
  assert scripts.main_script(text) == (script, pytest.approx(share))


def test_main_script_is_the_registrys_code_for_mixed_systems():
  for code, text in (
    ("jpn_Jpan", "これは漢字とかなです"),
    ("kor_Hang", "이것은 한국어입니다"),
    ("zho_Hani", "这是中文"),
  ):
    assert scripts.main_script(text)[0] == registry.get(code).script


def test_han_alone_may_be_japanese_korean_or_chinese_but_not_thai():
  for script in ("Jpan", "Kore", "Hani"):
    assert scripts.script_share("東京", script) == 1.0
  assert scripts.script_share("東京", "Thai") == 0.0
  assert scripts.script_share("ひらがな", "Hani") == 0.0
  assert scripts.script_share("123", "Latn") == 0.0
