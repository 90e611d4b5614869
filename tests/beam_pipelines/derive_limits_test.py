"""Deriving limits from a corpus: a recount with numpy, and use by FineWeb2."""

import collections
import gzip
import json
import random

import numpy as np
import pytest

from beam_pipelines import derive_limits, fineweb2, words
from beam_pipelines.filters import quality
from mlm.text import documents

PAGES = 12
LETTERS = {"eng_Latn": "abcde", "amh_Ethi": "ሀለሐመሠረሰ", "zul_Latn": "hlkmnz"}
COMMON = {"eng_Latn": "the", "amh_Ethi": "ነው", "zul_Latn": "ukuthi"}


@pytest.fixture(scope="module")
def texts():
  """Pages whose words and lines are longer in some languages; few in Zulu."""
  rng = random.Random(0)

  def line(code):
    tokens = [
      "".join(rng.choices(letters, k=rng.randint(1, 6)))
      for letters in [LETTERS[code]] * rng.randint(4, 12)
    ]
    return " ".join([*tokens, COMMON[code]]) + rng.choice(".,")

  return {
    code: [
      "\n".join(line(code) for _ in range(rng.randint(5, 15)))
      for _ in range(3 if code == "zul_Latn" else PAGES)
    ]
    for code in LETTERS
  }


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory):
  directory = tmp_path_factory.mktemp("corpus")
  counts = {}
  for code, pages in texts.items():
    (directory / code).mkdir()
    lines = [
      documents.to_json(
        documents.Document(f"http://{n}.example", "", text, code, 1.0)
      )
      for n, text in enumerate(pages)
    ]
    path = directory / code / "train-00000-of-00001.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{x}\n" for x in lines).encode()))
    counts[code] = {"train": {"documents": len(pages)}}
  (directory / "counts.json").write_text(json.dumps({"languages": counts}))
  return directory


def run(corpus, output, *more):
  return derive_limits.run(
    [f"--corpus={corpus}", f"--output={output}", "--min_pages=10", *more]
  )


def test_limits_are_those_of_a_recount(corpus, texts, tmp_path):
  found = run(corpus, tmp_path / "limits")
  assert set(found) == {"default", "eng_Latn", "amh_Ethi"}

  def lengths(code):
    return np.array(
      [
        round(
          quality.gopher_quality(t, words.words(t, code), ())[
            "mean_word_length"
          ],
          3,
        )
        for t in texts[code]
      ]
    )

  english, amharic = lengths("eng_Latn"), lengths("amh_Ethi")
  for side, limit in (("min", 3), ("max", 10)):
    z = (limit - english.mean()) / english.std()
    expected = amharic.mean() + z * amharic.std()
    got = found["amh_Ethi"]["gopher_quality"]["mean_word_length"][side]
    assert got == pytest.approx(expected, abs=1e-3)
    # English is its own yardstick.
    own = found["eng_Latn"]["gopher_quality"]["mean_word_length"][side]
    assert own == pytest.approx(limit, abs=1e-3)
  # What no page varies in stays English's, and is said.
  assert "alphabetic_words" not in found["amh_Ethi"]["not_derived"]
  assert "duplicate_lines" in found["amh_Ethi"]["not_derived"]
  assert (
    found["amh_Ethi"]["gopher_repetition"]["duplicate_lines"]
    == (found["default"]["gopher_repetition"]["duplicate_lines"])
  )


def test_stop_words_are_the_most_frequent_words(corpus, texts, tmp_path):
  found = run(corpus, tmp_path / "limits")
  for code in ("eng_Latn", "amh_Ethi"):
    counts = collections.Counter(
      w
      for text in texts[code]
      for w in words.words(text, code)
      if any(map(str.isalpha, w))
    )
    total = sum(counts.values())
    expected = {w for w, n in counts.items() if n >= 0.008 * total}
    stop_words = found[code]["stop_words"]
    assert stop_words[0] == COMMON[code]
    assert expected <= set(stop_words)
    assert len(stop_words) == max(len(expected), 8)
    assert found[code]["gopher_quality"]["stop_words"] == {"min": 2}


def test_fineweb2_takes_the_directory(corpus, texts, tmp_path):
  run(corpus, tmp_path / "limits")
  limits = {
    path.stem: json.loads(path.read_text())
    for path in (tmp_path / "limits").glob("*.json")
  }
  page = {"language": "amh_Ethi", "text": texts["amh_Ethi"][0]}
  assert fineweb2.drop_by_quality(page, limits) is None
  spam = {"language": "amh_Ethi", "text": "ዋጋ ቅናሽ ዛሬ. " * 60}
  stage, reason = fineweb2.drop_by_quality(spam, limits)
  assert (stage, reason) == ("gopher_repetition", "top_2_gram_above")
  # Zulu has no file: English's limits.
  text = " ".join(texts["zul_Latn"][0].split()[:40])
  assert fineweb2.drop_by_quality(
    {"language": "zul_Latn", "text": f"{text}."}, limits
  ) == ("gopher_quality", "words_below")


def test_a_second_run_finds_the_files(corpus, tmp_path):
  first = run(corpus, tmp_path / "limits")
  names = {path.name for path in (tmp_path / "limits").iterdir()}
  assert names == {f"{code}.json" for code in first}
  assert run(corpus, tmp_path / "limits") == first


def test_english_is_needed_but_for_ten_tail(corpus, tmp_path, capsys):
  counts = json.loads((corpus / "counts.json").read_text())
  arguments = [f"--corpus={corpus}", f"--output={tmp_path}", "--min_pages=13"]
  assert derive_limits.main(arguments) == 2
  assert f"has {counts['languages']['eng_Latn']['train']['documents']}" in (
    capsys.readouterr().err
  )
  found = run(corpus, tmp_path / "tails", "--rule=ten_tail")
  assert "duplicate_lines" not in found["amh_Ethi"]["not_derived"]
