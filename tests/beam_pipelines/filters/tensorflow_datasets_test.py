"""mC4's and C4's rules against the C4 builder of TensorFlow Datasets.

The same pages, decision by decision. NLTK's sentence model is a download; both
sides get our sentences instead.
"""

import collections
import random

import gcld3  # noqa: F401  before tensorflow, see beam_pipelines.langid
import pytest
from tensorflow_datasets.text import c4_utils

from beam_pipelines.dedup import lines as line_dedup
from beam_pipelines.filters import bad_words, length, sentence_lines
from mlm.text import normalize, segment

PIECES = (
  *("The cat sat on the mat", "a [1] cited [citation needed] claim", "short"),
  *(
    "Lorem ipsum dolor sit amet",
    "Please enable JavaScript now",
    "if (x) { y }",
  ),
  *("Read our Privacy Policy here please", "我们的猫坐在垫子上", "w" * 1001),
  *("مرحبا بكم في هذا الموقع", "[edit] Ένα δύο τρία τέσσερα πέντε", "x" * 230),
)
ENDS = (".", "...", "!", "?", '."', "", " ", ";", ". Yes. No.", '"')


def _pages(number):
  rng = random.Random(0)
  for i in range(number):
    # Most lines are ordinary, or nearly no page would pass.
    lines = [
      rng.choice(PIECES if rng.random() < 0.2 else PIECES[:1])
      + rng.choice(ENDS if rng.random() < 0.5 else ENDS[:1])
      for _ in range(rng.randint(0, 9))
    ]
    host = rng.choice(["http://", "https://www.", "http://www.", ""])
    tail = rng.choice(["", "/", "?utm_x=1", "?ref", "?q=1", "?feed=a/", "//"])
    yield c4_utils.PageFeatures(
      url=f"{host}site{i}.example/ü{tail}",
      text=rng.choice(["\n", "\r\n", "\n\n"]).join(lines),
      language=rng.choice(["en", "ja", "th", "fr-Latn", "el"]),
    )


@pytest.fixture(scope="module")
def pages():
  return list(_pages(1500))


@pytest.fixture(autouse=True)
def our_sentences(monkeypatch):
  monkeypatch.setattr(c4_utils, "_get_sentences", segment.sentences)
  monkeypatch.setattr(
    c4_utils, "get_counter_inc_fn", lambda name: lambda counter, n=1: None
  )


def test_c4_lines_of_a_page(pages):
  reasons = collections.Counter()
  peer = c4_utils.get_clean_page_fn()
  for page in pages:
    counted = []
    expected = list(
      peer(page, counter_inc_fn=lambda name, n=1, c=counted: c.append(name))
    )
    text, reason = sentence_lines.clean(
      page.text,
      max_word_characters=1000,
      min_line_words=5,
      min_sentences=3,
      num_sentences=lambda line: len(segment.sentences(line)),
    )
    assert (
      [text] == [p.text for p in expected] if reason is None else (not expected)
    )
    if reason:
      names = {
        "lorem_ipsum": "filtered:loremipsum",
        "curly_bracket": "filtered:squigglybracket",
        "few_sentences": "filtered:too_few_sentences",
      }
      assert counted[-1] == names[reason]
    reasons[reason] += 1
  assert len(reasons) == 4 and min(reasons.values()) >= 10


def test_long_lines(pages):
  outcomes = collections.Counter()
  for page in pages:
    # They measure lines as they are, we measure them stripped.
    text = "\n".join(map(str.strip, page.text.split("\n")))
    expected = c4_utils.paragraph_filter(
      c4_utils.PageFeatures(text=text), min_paragraph_len=22
    )
    reason = length.long_lines(text, min_lines=3, min_characters=22)
    assert expected == (reason is None)
    outcomes[expected] += 1
  assert min(outcomes.values()) > 50


def test_urls(pages):
  assert all(
    normalize.normalize_url(page.url) == c4_utils.normalize_url(page.url)
    for page in pages
  )


@pytest.mark.parametrize("fraction", [1.0, 0.999, 0.5])
def test_bad_words(pages, fraction):
  words = {
    "en": ("sat", "mat yes"),
    "ja": ("猫", "sat"),
    "th": ("cat",),
    "fr": ("a",),
  }
  codes = {"en": "eng", "ja": "jpn", "th": "tha", "fr": "fra"}
  peer = c4_utils.get_badwords_filter_fn(words, filter_fraction=fraction)
  outcomes = collections.Counter()
  for page in pages:
    page.normalized_url = c4_utils.normalize_url(page.url)
    code = page.language.split("-")[0]
    pattern = (
      bad_words.pattern_of(codes[code], words[code]) if code in words else None
    )
    reason = bad_words.bad_words(
      page.text, pattern, url=page.normalized_url, filter_fraction=fraction
    )
    assert peer(page) == (reason is None)
    outcomes[reason, bool(pattern)] += 1
  assert outcomes["bad_word", True] > 50 and outcomes[None, True] > 50


def test_a_line_has_one_owner_on_both_sides(pages):
  """Who owns a line: theirs by the hash of the URL as it is.

  Ours hashes the normalised URL, so that http and https weigh the same; given
  theirs, the texts that remain are equal.
  """
  pages = [p for p in pages if p.text][:300]
  owners: dict = {}
  for page in pages:
    for key, url in c4_utils._emit_url_to_lines(page):
      owners.setdefault(key, set()).add(url)
  chosen = {
    key: min(urls, key=c4_utils._hash_text) for key, urls in owners.items()
  }
  changed = 0
  for page in pages:
    keep = {key for key, url in chosen.items() if url == page.url}
    (expected,) = list(
      c4_utils._remove_lines_from_text(
        (page.url, {"pages": [page], "lines": keep}),
        lambda *a: None,
        min_num_sentences=0,
      )
    ) or [None]
    lost = {
      line_dedup.line_hash(line)
      for line in page.text.split("\n")
      if c4_utils._hash_text(line.strip().lower()) not in keep
    }
    text, _, _ = line_dedup.remove_lines(page.text, lost)
    assert text == (expected.text if expected else "")
    changed += text != page.text
  assert changed > 100
