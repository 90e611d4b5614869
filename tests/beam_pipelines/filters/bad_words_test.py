import hashlib

import pytest

from beam_pipelines.filters import bad_words


def check(text, language, words, url="x.example/1"):
  pattern = bad_words.pattern_of(language, words)
  return bad_words.bad_words(text, pattern, url=url, filter_fraction=0.999)


@pytest.mark.parametrize(
  "language, word, bad, good",
  [
    ("eng", "zorb", "A Zorb, here.", "zorbing and azorb"),
    ("rus", "зюк", "Это ЗЮК!", "зюкать"),
    ("ell", "ζορμπ", "«ζορμπ»", "ζορμπας"),
    ("arb", "زورب", "هذا زورب", "زوربا"),
    ("kor", "조르브", "조르브 있다", "조르브가"),
    ("fra", "gros mot", "un gros mot.", "gros motif"),
  ],
)
def test_words_stand_alone(language, word, bad, good):
  assert check(bad, language, (word,)) == "bad_word"
  assert check(good, language, (word,)) is None


@pytest.mark.parametrize(
  "language, word, text",
  [
    ("jpn", "ぞる", "これはぞるです"),
    ("tha", "ซอบ", "นี่คือซอบนะ"),
    ("zho", "坏词", "这是坏词吗"),
  ],
)
def test_languages_without_spaces_match_anywhere(language, word, text):
  assert check(text, language, (word,)) == "bad_word"
  # Between letters the same word is a part of another in other languages.
  assert check(text, "kor", (word,)) is None


def test_one_page_in_a_thousand_stays_by_hash_of_its_url():
  urls = [f"site.example/{n}" for n in range(5000)]
  kept = [u for u in urls if check("a zorb", "eng", ("zorb",), u) is None]
  digests = {u: int(hashlib.md5(u.encode()).hexdigest(), 16) for u in urls}
  numerator, denominator = (0.999).as_integer_ratio()
  assert kept == [u for u in urls if digests[u] % denominator >= numerator]
  assert 0 < len(kept) < 20


def test_no_list_no_rule():
  assert (
    bad_words.bad_words("zorb", None, url="u", filter_fraction=0.999) is None
  )


def test_lists_are_read_by_language_and_the_rest_is_told(tmp_path):
  for name, text in {
    "en": "Zorb\n\ngros mot \n",
    "zh": "性\n坏词\n",  # the first is allowed: it is in a tenth of all pages
    "no": "ord",
    "tlh": "petaQ",
    "README.md": "lists",
  }.items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  lists, skipped = bad_words.read_lists(str(tmp_path))
  assert lists == {
    "eng": ("gros mot", "zorb"),
    "zho": ("坏词",),
    "nor": ("ord",),
  }
  assert skipped == ("README.md", "tlh")


def test_directories_that_cannot_be_meant_are_refused(tmp_path):
  with pytest.raises(ValueError, match="not a directory"):
    bad_words.read_lists(str(tmp_path / "none"))
  with pytest.raises(ValueError, match="named by a language"):
    bad_words.read_lists(str(tmp_path))
  (tmp_path / "en").write_text("\n")
  with pytest.raises(ValueError, match="empty"):
    bad_words.read_lists(str(tmp_path))
  (tmp_path / "en").write_bytes(b"\xff\xfe")
  with pytest.raises(ValueError, match="UTF-8"):
    bad_words.read_lists(str(tmp_path))
