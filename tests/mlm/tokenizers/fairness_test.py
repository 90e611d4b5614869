"""Measures against published values, other libraries and hand-worked lines."""

import base64
import collections
import csv
import gzip

import numpy as np
import pytest
import tokenizers
from scipy.spatial import distance

from mlm import run
from mlm.tokenizers import encoders, fairness

LINES = {
  "eng": ["the cat sat", "a dog"],
  "swa": ["paka alikaa chini", "mbwa"],
  "rus": ["кошка сидела", "собака"],
  "tha": ["แมวนั่งลง", "หมา"],
  "arb": ["جلست القطة", "كلب"],
  "hin": ["बिल्ली बैठी", "कुत्ता"],
  "zho-TW": ["貓坐下了", "狗"],
  "dzo": ["བྱི་ལི།", "ཁྱི།"],
}

# One id a character, 7 for "t", which decodes to "T".
CHARACTERS = encoders.Encoder(
  name="characters",
  encode=lambda text: [7 if c == "t" else ord(c) for c in text],
  decode=lambda ids: "".join("T" if i == 7 else chr(i) for i in ids),
  vocab_size=0x11000,
  byte_ids=frozenset({ord("g")}),
)


@pytest.fixture
def parallel(tmp_path):
  directory = tmp_path / "parallel"
  directory.mkdir()
  for label, lines in LINES.items():
    kind = "src" if label == "eng" else "ref"
    text = "".join(f"{line}\n" for line in lines).encode()
    (directory / f"{kind}.{label}.txt.gz").write_bytes(gzip.compress(text))
  (directory / "ref.eng.txt").write_text("another\nEnglish\n")
  return directory


@pytest.mark.parametrize(
  "text, expected",
  [
    ("pick @@ed pick @@l @@ed pick @@les", 0.8265065),
    ("pick @@e @@d pick @@l @@e @@d pick @@l @@e @@s", 0.9204840),
  ],
)
def test_renyi_efficiency_of_its_package(text, expected):
  """tokenization-scorer's own test values, order 2.5."""
  counts = np.array(list(collections.Counter(text.split()).values()))
  assert fairness.renyi_efficiency(counts, 2.5) == pytest.approx(
    expected, abs=1e-6
  )


def test_divergence_is_scipys_distance_squared():
  rng = np.random.default_rng(0)
  for _ in range(20):
    a, b = rng.integers(0, 5, (2, 30)) + np.eye(2, 30)
    expected = distance.jensenshannon(a, b, base=2) ** 2
    assert fairness.jensen_shannon(a, b) == pytest.approx(expected)
  assert fairness.jensen_shannon(np.array([1, 0]), np.array([0, 1])) == 1


def test_rank_and_gini_by_hand():
  assert fairness.average_rank(np.array([1, 0, 6, 3])) == pytest.approx(0.5)
  assert fairness.gini([2, 2, 2]) == pytest.approx(0)
  assert fairness.gini([1, 3]) == pytest.approx(0.25)


def test_measures_by_hand(parallel):
  texts = fairness.read_parallel(str(parallel))
  assert texts["eng"] == LINES["eng"]  # the source, not the reference
  measures, counts = fairness.report_card(CHARACTERS, texts)
  english = measures["eng"]
  assert (english.tokens, english.premium, english.lossless) == (16, 1, 0.5)
  assert english.fertility == pytest.approx(16 / 5)
  assert english.continued_words == pytest.approx(4 / 5)  # all but "a"
  assert english.byte_fallback_rate == pytest.approx(1 / 16)
  assert counts["eng"][7] == 3
  swahili = measures["swa"]
  assert swahili.premium == pytest.approx(21 / 16)
  assert swahili.premium_mean == pytest.approx((17 / 11 + 4 / 5) / 2)
  assert swahili.characters_per_token == 1
  assert measures["tha"].bytes_per_token == 3
  # No words where none stand between spaces, or the language is unknown.
  assert measures["tha"].fertility is None
  assert measures["dzo"].continued_words is None


def test_every_kind_of_tokenizer_opens(tmp_path):
  model = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"the": 0, "cat": 1, "<0x41>": 2}, "the")
  )
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  path = tmp_path / "tokenizer.json"
  model.save(str(path))
  opened = encoders.open_encoder(str(path), "words")
  assert opened.encode("cat the cat") == [1, 0, 1]
  assert (opened.vocab_size, opened.byte_ids) == (3, {2})
  ranks = [bytes([i]) for i in range(256)] + [b"th", b"the"]
  path = tmp_path / "ranks.tiktoken"
  path.write_text(
    "".join(
      f"{base64.b64encode(piece).decode()} {i}\n"
      for i, piece in enumerate(ranks)
    )
  )
  opened = encoders.open_encoder(str(path), "ranks")
  assert opened.encode("the ก") == [257, 32, *"ก".encode()]
  assert opened.decode(opened.encode("the ก")) == "the ก"


def test_what_cannot_be_opened_is_named(parallel, tmp_path):
  for name, content, told in (
    ("broken.json", "{", "cannot read"),
    ("broken.model", "x", "cannot read"),
    ("notes.txt", "x", "is no directory"),
  ):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=told):
      encoders.open_encoder(str(path), "x")
  with pytest.raises(FileNotFoundError, match="no /no/such"):
    encoders.open_encoder("/no/such", "x")
  (parallel / "ref.fra.txt").write_text("une ligne\n")
  with pytest.raises(ValueError, match="has 1 lines, English 2"):
    fairness.read_parallel(str(parallel))
  (parallel / "ref.fra.txt").write_bytes(b"\xff\n\n")
  with pytest.raises(ValueError, match="not whole UTF-8"):
    fairness.read_parallel(str(parallel))
  with pytest.raises(FileNotFoundError, match="eng"):
    fairness.read_parallel(str(tmp_path))


def test_the_job_compares_by_language(parallel, tmp_path):
  paths = {}
  for name, size in (("small", 100), ("large", 400)):
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(
      [line for lines in LINES.values() for line in lines],
      vocab_size=256 + size,
      min_frequency=1,
      show_progress=False,
    )
    paths[name] = str(tmp_path / f"{name}.json")
    model.save(paths[name])
  status = run.main(
    [
      "compare_tokenizers",
      "--gin_file=gin/jobs/compare_tokenizers.gin",
      f"--gin.TOKENIZERS={paths}",
      f"--gin.PARALLEL={parallel}",
      f"--gin.OUTPUT={tmp_path / 'report'}",
    ]
  )
  assert status == 0
  with open(tmp_path / "report/tokenizers.tsv", encoding="utf-8") as f:
    rows = list(csv.DictReader(f, delimiter="\t"))
  assert len(rows) == 2 * len(LINES)
  tokens = {
    (row["tokenizer"], row["language"]): int(row["tokens"]) for row in rows
  }
  assert all(tokens["large", x] <= tokens["small", x] for x in LINES)
  assert all(float(row["lossless"]) == 1 for row in rows)
  page = (tmp_path / "report/tokenizers.html").read_text(encoding="utf-8")
  assert all(f"<td>{label}</td>" in page for label in LINES)
  assert "not in the registry" in page and "script Thai" in page
