"""Word segmentation in scripts with and without spaces."""

import pathlib
import re

import pytest

from beam_pipelines import words
from mlm.languages import registry

SOURCES = pathlib.Path(__file__).parents[1] / "testdata/crawl/sources"


@pytest.mark.parametrize(
  "code, text, expected",
  [
    ("eng_Latn", "It's 3.5 km, ok?", ["It's", "3.5", "km", ",", "ok", "?"]),
    ("tha_Thai", "ภาษาไทยเป็นภาษา", ["ภาษา", "ไทย", "เป็น", "ภาษา"]),
    ("zho_Hani", "我们需要分成词语。", ["我们", "需要", "分成", "词语", "。"]),
    ("jpn_Jpan", "日本語の文章を", ["日本語", "の", "文章", "を"]),
    ("khm_Khmr", "ប្រជាពលរដ្ឋខ្មែរ", ["ប្រជាពលរដ្ឋ", "ខ្មែរ"]),
    ("lao_Laoo", "ພາສາລາວມີສຽງ", ["ພາສາ", "ລາວ", "ມີ", "ສຽງ"]),
    ("mya_Mymr", "မြန်မာ စကား", ["မြန်မာ", "စကား"]),
    ("arb_Arab", "مرحبا، كيف؟", ["مرحبا", "،", "كيف", "؟"]),
    ("hin_Deva", "नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
    ("amh_Ethi", "ሰላም፡ዓለም።", ["ሰላም", "፡", "ዓለም", "።"]),
  ],
)
def test_words_of_a_sentence(code, text, expected):
  assert words.words(text, code) == expected


@pytest.mark.parametrize(
  "code", sorted(path.name for path in SOURCES.iterdir())
)
def test_words_hold_every_character_but_white_space(code):
  for path in (SOURCES / code).glob("*.html"):
    text = re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8"))
    found = words.words(text, code)
    assert "".join(found) == re.sub(r"\s", "", text)
    assert len(found) > len(text) / 20


def test_an_unknown_language_is_refused():
  with pytest.raises(registry.UnknownLanguageError):
    words.words("x", "xx")
  assert words.words("x y", "und") == ["x", "y"]
