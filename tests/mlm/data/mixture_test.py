"""From a small corpus through tokenizer, tasks and mixture to packed batches."""

import gzip
import itertools
import json
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mlm.data import loader, mixtures, sampling, tasks
from mlm.languages import registry, samplers
from mlm.text import documents
from mlm.tokenizers import count, load, special, train, vocabularies

LENGTH = 32
WORDS = {
  "eng_Latn": "bread river morning school market rain bridge garden",
  "rus_Cyrl": "хлеб река утро школа рынок дождь мост сад",
  "ell_Grek": "ψωμί ποτάμι πρωί σχολείο αγορά βροχή γέφυρα κήπος",
  "hin_Deva": "रोटी नदी सुबह विद्यालय बाज़ार बारिश पुल बगीचा",
  "arb_Arab": "خبز نهر صباح مدرسة سوق مطر جسر حديقة",
  "tha_Thai": "ขนมปัง แม่น้ำ เช้า โรงเรียน ตลาด ฝน สะพาน สวน",
  "pes_Arab": "نان رودخانه صبح می‌رود مدرسه باران پل باغ",
}
NUM_DOCUMENTS = {
  code: {"train": 60 if code == "eng_Latn" else 15, "validation": 4}
  for code in WORDS
}


def _texts(code, split):
  rng = random.Random(f"{code} {split}")
  words = WORDS[code].split()
  for _ in range(NUM_DOCUMENTS[code][split]):
    lines = [
      " ".join(rng.choices(words, k=rng.randrange(4, 20)))
      for _ in range(rng.randrange(1, 5))
    ]
    yield "\n".join(lines)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  languages = {}
  for code in WORDS:
    (folder / code).mkdir()
    for split in documents.SPLITS:
      texts = list(_texts(code, split))
      lines = [
        documents.to_json(
          documents.Document(f"http://{code}/{i}", "2026", text, code, 1.0)
        )
        for i, text in enumerate(texts)
      ]
      data = "".join(line + "\n" for line in lines).encode()
      name = f"{split}-00000-of-00001.jsonl.gz"
      (folder / code / name).write_bytes(gzip.compress(data, mtime=0))
      languages.setdefault(code, {})[split] = {
        "documents": len(texts),
        "words": sum(len(t.split()) for t in texts),
        "characters": sum(map(len, texts)),
        "bytes": sum(len(t.encode()) for t in texts),
      }
  counts = {
    "pipeline": "mc4",
    "languages": languages,
    "stages": [],
    "funnel": {},
  }
  (folder / "counts.json").write_text(json.dumps(counts))
  return str(folder)


def _train(corpus, output, vocab_size=480):
  return train.train_tokenizer(
    corpus=corpus,
    output=str(output),
    vocab_size=vocab_size,
    sampler=samplers.by_temperature(
      temperature=2.0, unit="characters", max_epochs=1
    ),
    budget_characters=40_000,
    character_coverage=1.0,
    division=None,
    seed=0,
    num_threads=1,
  )


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
  output = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
  _train(corpus, output)
  count.count_tokens(corpus=corpus, tokenizer=str(output), num_threads=1)
  return str(output)


@pytest.fixture(scope="module")
def mixture(corpus, tokenizer):
  names = tasks.register_tasks(
    corpus=corpus,
    tokenizer=tokenizer,
    sequence_length=LENGTH,
    prefix="mixture_test",
  )
  counts = count.read_token_counts(tokenizer)
  plan = sampling.mixture_plan(
    counts,
    sampler=samplers.by_temperature(
      temperature=2.0, unit="tokens", max_epochs=None
    ),
    num_tokens=100_000,
    languages=list(WORDS),
  )
  mixtures.register_mixture(
    name="mixture_test",
    tasks=names,
    token_shares={row.language: row.rate for row in plan},
    tokens_per_example=count.tokens_per_example(
      counts, split="train", sequence_length=LENGTH
    ),
  )
  return "mixture_test", plan


def _batches(mixture, start_step=0, batch_size=8, seed=0):
  return loader.batches(
    mixture=mixture[0],
    sequence_length=LENGTH,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
  )


@pytest.mark.parametrize(
  "text",
  [
    "bread\nand  milk",
    "می‌روم",
    "क्‍ष",
    "面包和水",
    "ዳቦ",
    "𐍈 🥖\u00a0x",
    "<|user|>",
  ],
)
def test_any_text_round_trips_and_cannot_forge_a_turn(tokenizer, text):
  processor = load.load(tokenizer)
  ids = processor.encode(text)
  assert processor.decode(ids) == text
  assert special.USER_ID not in ids and special.ASSISTANT_ID not in ids


# SentencePiece writes spaces as U+2581: that one character comes back a space.
ANY_TEXT = st.text(
  st.characters(blacklist_categories=["Cs"], blacklist_characters="\u2581"),
  max_size=60,
)


@hypothesis.settings(
  max_examples=400,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(ANY_TEXT)
def test_fuzzed_unicode_round_trips_and_tensorflow_agrees(tokenizer, text):
  processor = load.load(tokenizer)
  ids = processor.encode(text)
  assert processor.decode(ids) == text
  assert (
    vocabularies.vocabulary(tokenizer).encode_tf(text).numpy().tolist() == ids
  )


def test_tensorflow_gives_the_same_ids(tokenizer):
  processor = load.load(tokenizer)
  vocabulary = vocabularies.vocabulary(tokenizer)
  for code in WORDS:
    for text in _texts(code, "validation"):
      got = vocabulary.encode_tf(text).numpy().tolist()
      assert got == processor.encode(text)


def test_a_finished_tokenizer_is_kept_and_other_settings_refused(
  corpus, tokenizer
):
  assert _train(corpus, tokenizer) == load.read_card(tokenizer)
  with pytest.raises(ValueError, match="other settings"):
    _train(corpus, tokenizer, vocab_size=500)


def test_a_changed_model_file_is_refused(corpus, tmp_path):
  output = tmp_path / "tokenizer"
  _train(corpus, output)
  path = output / load.MODEL_FILE
  path.write_bytes(path.read_bytes() + b"x")
  with pytest.raises(ValueError, match="sha256"):
    load.load(str(output))


def test_counts_are_those_of_the_texts(tokenizer):
  processor = load.load(tokenizer)
  counts = count.read_token_counts(tokenizer)
  for code in WORDS:
    texts = list(_texts(code, "train"))
    assert counts[code]["train"]["documents"] == len(texts)
    assert counts[code]["train"]["tokens"] == sum(
      len(processor.encode(t)) + 1 for t in texts
    )


def test_the_plan_prints_every_language_and_class(mixture):
  table = sampling.format_plan(mixture[1])
  for code in WORDS:
    assert code in table
  assert "Joshi class" in table
  assert sum(row.rate for row in mixture[1]) == pytest.approx(1)
  for row in mixture[1]:
    epochs = row.rate * 100_000 / row.tokens
    assert row.expected_epochs == pytest.approx(epochs)


def test_one_epoch_of_a_task_holds_every_token_once(corpus, tokenizer, mixture):
  import seqio

  processor = load.load(tokenizer)
  dataset = seqio.get_mixture_or_task("mixture_test.tha_Thai").get_dataset(
    sequence_length={"targets": LENGTH, "language_ids": LENGTH},
    split="train",
    shuffle=False,
    num_epochs=1,
  )
  got = list(
    itertools.chain(*(e["targets"] for e in dataset.as_numpy_iterator()))
  )
  want = [
    token
    for text in _texts("tha_Thai", "train")
    for token in [*processor.encode(text), special.EOS_ID]
  ]
  assert got == want


def test_batches_are_packed_with_everything_in_step(mixture):
  batch = next(_batches(mixture))
  segments = batch["decoder_segment_ids"]
  targets = batch["decoder_target_tokens"]
  inputs = batch["decoder_input_tokens"]
  real = segments > 0
  assert real.mean() > 0.7
  np.testing.assert_array_equal(batch["decoder_loss_weights"], real)
  for row in range(len(segments)):
    for segment in range(1, segments[row].max() + 1):
      at = np.flatnonzero(segments[row] == segment)
      assert (np.diff(at) == 1).all()
      np.testing.assert_array_equal(
        batch["decoder_positions"][row, at], np.arange(len(at))
      )
      assert inputs[row, at[0]] == 0
      np.testing.assert_array_equal(inputs[row, at[1:]], targets[row, at[:-1]])
      languages = set(batch["decoder_language_ids"][row, at])
      assert len(languages) == 1
      assert registry.codes()[languages.pop()] in WORDS


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(mixture):
  whole = list(itertools.islice(_batches(mixture), 7))
  resumed = list(itertools.islice(_batches(mixture, start_step=4), 3))
  for a, b in zip(whole[4:], resumed):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
  other = next(_batches(mixture, seed=1))
  assert (
    other["decoder_target_tokens"] != whole[0]["decoder_target_tokens"]
  ).any()


def test_token_shares_match_the_plan(mixture):
  tokens = np.zeros(registry.NUM_LANGUAGES)
  for batch in itertools.islice(_batches(mixture, batch_size=64), 20):
    tokens += np.bincount(
      batch["decoder_language_ids"].reshape(-1),
      weights=batch["decoder_loss_weights"].reshape(-1),
      minlength=len(tokens),
    )
  examples = tokens.sum() / 20  # examples are 20 tokens or more on average
  for row in mixture[1]:
    share = tokens[registry.index(row.language)] / tokens.sum()
    # Four standard errors of a share of that many examples.
    error = 4 * (row.rate * (1 - row.rate) / examples) ** 0.5
    assert share == pytest.approx(row.rate, abs=error)


def test_other_arguments_under_a_registered_name_are_refused(
  corpus, tokenizer, mixture
):
  arguments = {
    "corpus": corpus,
    "tokenizer": tokenizer,
    "prefix": "mixture_test",
  }
  again = tasks.register_tasks(sequence_length=LENGTH, **arguments)
  assert len(again) == len(WORDS)
  with pytest.raises(ValueError, match="is registered with"):
    tasks.register_tasks(sequence_length=LENGTH * 2, **arguments)
