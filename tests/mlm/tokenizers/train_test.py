"""Training: how much of each language, divisions, and going on after a kill."""

import gzip
import json
import random

import pytest

from mlm.languages import samplers
from mlm.text import documents
from mlm.tokenizers import balance, budget, load, sample, train

SYLLABLES = {
  "eng_Latn": "ba de gi lo mu ka re ti",
  "rus_Cyrl": "ба де ги ло му ка ре ти",
  "tha_Thai": "กา มี ดู นา ปู รู ตา สี",
  "amh_Ethi": "ሀለ መሰ ረቀ በተ ነአ ከወ ዘየ ደገ",
  "arb_Arab": "با دو كي لا مو نا ري تا",
  "hin_Deva": "का मी दू ना पा रु ता सी",
}
# English has most text, Amharic least.
NUM_LINES = dict(zip(SYLLABLES, (400, 200, 100, 40, 80, 80)))


def _sentences(code, seed, number):
  words = random.Random(code)
  lexicon = [
    "".join(words.choices(SYLLABLES[code].split(), k=words.randint(2, 4)))
    for _ in range(120)
  ]
  draw = random.Random(f"{code} {seed}")
  return [" ".join(draw.choices(lexicon, k=9)) for _ in range(number)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  languages = {}
  for code in SYLLABLES:
    lines = _sentences(code, 0, NUM_LINES[code])
    docs = ["\n".join(lines[i : i + 4]) for i in range(0, len(lines), 4)]
    (folder / code).mkdir()
    rows = [
      documents.to_json(
        documents.Document(
          url=f"http://{code}.example/{number}",
          timestamp="2024-01-01T00:00:00Z",
          text=text,
          language=code,
          language_probability=1.0,
        )
      )
      for number, text in enumerate(docs)
    ]
    data = "".join(f"{row}\n" for row in rows).encode()
    path = folder / code / "train-00000-of-00001.jsonl.gz"
    path.write_bytes(gzip.compress(data, mtime=0))
    languages[code] = {
      "train": {"documents": len(docs), "characters": sum(map(len, docs))}
    }
  (folder / "counts.json").write_text(
    json.dumps({"format": "jsonl.gz", "languages": languages})
  )
  return str(folder)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
  folder = tmp_path_factory.mktemp("parallel")
  labels = dict(zip(SYLLABLES, ("eng", "rus", "tha", "amh", "arb", "hin")))
  for code, label in labels.items():
    text = "".join(f"{line}\n" for line in _sentences(code, 1, 60))
    (folder / f"test.{label}.txt").write_text(text, encoding="utf-8")
  return str(folder)


BUDGETED = budget.Budgeted(
  num_clusters=3, language_pieces=100, steps=(10, 20, 40), seed=0
)


def _train(corpus, output, **options):
  return train.train_tokenizer(
    **{
      "corpus": corpus,
      "output": str(output),
      "vocab_size": 500,
      "sampler": samplers.by_temperature(
        temperature=1.0, unit="characters", max_epochs=None
      ),
      "budget_characters": 60_000,
      "character_coverage": 1.0,
      "division": None,
      "seed": 0,
      "num_threads": 1,
      **options,
    }
  )


def _balanced(parallel):
  return balance.Balanced(
    parallel=parallel, reference="eng_Latn", rounds=3, exponent=2.0
  )


def test_samples_follow_the_sampler_and_repeat_what_is_short(corpus):
  counts = documents.read_counts(corpus)
  plan = sample.plan_sample(
    counts,
    sampler=samplers.by_unimax(max_epochs=3.5),
    budget_characters=60_000,
  )
  lines = list(sample.sample_lines(corpus, plan, seed=0))
  assert sum(map(len, lines)) == pytest.approx(60_000, rel=0.05)
  for code, of in plan.items():
    assert of.budget <= 3.5 * of.available + 1
    longest = max(map(len, lines)) * 4
    assert abs(of.taken - of.budget) <= longest, code
  amharic = [x for x in lines if x[0] >= "\u1200" and x[0] < "\u1380"]
  once = set(_sentences("amh_Ethi", 0, NUM_LINES["amh_Ethi"]))
  assert set(amharic) == once and len(amharic) >= 3 * len(once)


def test_caps_of_one_epoch_take_no_text_twice(corpus):
  counts = documents.read_counts(corpus)
  plan = sample.plan_sample(
    counts, sampler=samplers.by_unimax(max_epochs=1), budget_characters=10**9
  )
  lines = list(sample.sample_lines(corpus, plan, seed=0))
  assert sorted(lines) == sorted(
    line for code, n in NUM_LINES.items() for line in _sentences(code, 0, n)
  )


def test_balancing_brings_premiums_together_and_keeps_the_reference(
  corpus, parallel, tmp_path
):
  card = _train(corpus, tmp_path / "t", division=_balanced(parallel))
  rounds = card["division"]["rounds"]
  spread = [
    max(of["premium"].values()) - min(of["premium"].values()) for of in rounds
  ]
  assert len(rounds) == 3 and spread[-1] < spread[0] / 2
  first, last = (of["characters"] for of in (rounds[0], rounds[-1]))
  assert last["amh_Ethi"] > 1.5 * first["amh_Ethi"]
  assert sum(last.values()) == pytest.approx(sum(first.values()), rel=1e-3)


@pytest.mark.parametrize("method", ["balanced", "budgeted"])
def test_a_killed_training_goes_on_and_ends_the_same(
  corpus, parallel, tmp_path, monkeypatch, method
):
  division = BUDGETED if method == "budgeted" else _balanced(parallel)
  undisturbed = _train(corpus, tmp_path / "a", division=division)
  train_model, calls = train.train_on_lines, []

  def killed(*args, **kwargs):
    if len(calls) == 2:
      raise KeyboardInterrupt
    calls.append(args)
    return train_model(*args, **kwargs)

  monkeypatch.setattr(train, "train_on_lines", killed)
  with pytest.raises(KeyboardInterrupt):
    _train(corpus, tmp_path / "b", division=division)
  assert not (tmp_path / "b" / load.CARD_FILE).exists()

  def counted(*args, **kwargs):
    calls.append(args)
    return train_model(*args, **kwargs)

  monkeypatch.setattr(train, "train_on_lines", counted)
  resumed = _train(corpus, tmp_path / "b", division=division)
  assert resumed == undisturbed
  models = [(tmp_path / x / load.MODEL_FILE).read_bytes() for x in "ab"]
  assert models[0] == models[1]
  assert not (tmp_path / "b" / "parts").exists()
  monkeypatch.setattr(train, "train_on_lines", train_model)
  if method == "balanced":
    assert len(calls) == 4  # three rounds and the last, none twice


def test_other_settings_are_refused_by_name(corpus, parallel, tmp_path):
  card = _train(corpus, tmp_path / "t")
  assert _train(corpus, tmp_path / "t") == card
  with pytest.raises(ValueError, match="vocab_size is 500 there, 501 here"):
    _train(corpus, tmp_path / "t", vocab_size=501)
  with pytest.raises(ValueError, match="division is None there"):
    _train(corpus, tmp_path / "t", division=_balanced(parallel))


def test_a_reference_that_is_nowhere_is_refused(corpus, parallel, tmp_path):
  method = balance.Balanced(
    parallel=parallel, reference="fra_Latn", rounds=1, exponent=1.0
  )
  with pytest.raises(ValueError, match="must share the reference fra_Latn"):
    _train(corpus, tmp_path / "t", division=method)
  with pytest.raises(ValueError, match="rounds 0"):
    balance.balanced_amounts(
      {},
      {},
      method=balance.Balanced(
        parallel="", reference="eng_Latn", rounds=0, exponent=1.0
      ),
      train_model=lambda amounts: b"",
    )
