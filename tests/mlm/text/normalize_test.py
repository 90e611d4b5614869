"""Tests of the normal forms of URLs and lines."""

import pytest

from mlm.text import normalize


@pytest.mark.parametrize(
  "url, expected",
  [
    ("https://www.a.example/b/", "a.example/b"),
    ("http://a.example/b", "a.example/b"),
    ("http://a.example//", "a.example"),
    ("http://wwwa.example/", "wwwa.example"),
    ("https://a.example/b?utm_source=x&id=1", "a.example/b"),
    ("https://a.example/b?ref=x", "a.example/b"),
    ("https://a.example/b/?feed=rss", "a.example/b"),
    # Only a query that opens with the mark is cut, as in the C4 builder.
    ("https://a.example/b?id=1&utm_source=x", "a.example/b?id=1&utm_source=x"),
    ("https://a.example/B?q=Å", "a.example/B?q=Å"),
    (
      "http://web.example/2024/https://www.a.example/",
      "web.example/2024/a.example",
    ),
  ],
)
def test_urls_are_compared_without_scheme_tracking_and_slash(url, expected):
  assert normalize.normalize_url(url) == expected


@pytest.mark.parametrize(
  "line, expected",
  [
    ("  Hello World \t", "hello world"),
    ("ΣΟΦΊΑ\r", "σοφία"),
    ("ПРИВЕТ", "привет"),
    ("ԲԱՐԵՎ", "բարև".replace("և", "եվ")),
    ("\u3000こんにちは", "こんにちは"),
    ("हिन्दी ", "हिन्दी"),
    ("  a  b ", "a  b"),
  ],
)
def test_lines_are_compared_stripped_in_lower_case(line, expected):
  assert normalize.fold_line(line) == expected


def test_folding_twice_changes_nothing():
  for line in (" ÀÉÎ ", "ԱԲԳ", "ΌΣΟΣ", "ไทย ", "ПРИ"):
    once = normalize.fold_line(line)
    assert normalize.fold_line(once) == once
