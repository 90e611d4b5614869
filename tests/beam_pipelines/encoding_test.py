"""Repair of encodings: what is repaired, what stays, and the short cut."""

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import encoding

TEXTS = (
  "Der Fluß fließt über die Brücke – schön!",
  "Крестьяне починили старый мост до дождя.",
  "Οι αγρότες επισκεύασαν τη γέφυρα.",
  "Zsófia őrzi a hűvös völgyet; „szép” – mondta.",
  "Đường về làng đẹp quá, ông ơi.",
  "農民たちは橋を修理しました。",
  "ชาวนาซ่อมสะพานเก่า",
  "किसानों ने पुल की मरम्मत की।",
)


@pytest.mark.parametrize("text", TEXTS)
def test_sound_text_stays(text):
  assert encoding.repair(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_mojibake_is_undone(text):
  """UTF-8 read as Latin-1, on one line of several."""
  broken = text.encode().decode("latin-1")
  assert encoding.repair(f"sound line\n{broken}") == f"sound line\n{text}"


def test_the_writers_choices_stay():
  for text in ("“quoted” ‘so’", "ﬁn", "ＦＵＬＬ １２３！", "e\u0301", "a\rb"):
    assert encoding.repair(text) == text
  assert encoding.repair("a &amp; б\x00\x1b[31m") == "a & б"


_CHARACTERS = st.sampled_from(
  "aе é ÃÂĐвЂ™€œ“ß°£Ô¦\xa0\x85&;amp<\n.àдшŠžØÙ√±ãƒ–"
)


@given(st.text(_CHARACTERS, max_size=30) | st.text(max_size=40))
def test_the_short_cut_changes_nothing(text):
  assert encoding.repair(text) == ftfy.fix_text(text, encoding._CONFIG)
