"""Extended tokenizers: the base's ids and text stay, new languages get shorter."""

import itertools
import math
import os

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from mlm.text import documents
from mlm.tokenizers import count, extend, load, special, vocabularies

TEXTS = {
  "Latn": "bread na mkate\nrain  soko",
  "Cyrl": "хлеб и река, дождь",
  "Deva": "क्‍ष नदी बाज़ार",
  "Arab": "می‌رود مدرسة سوق",
  "Ethi": "ዳቦ ወንዝ ጠዋት።",
  "Thai": "แม่น้ำโรงเรียน ตลาด",
  "Geor": "პური მდინარე",
  "Hani": "面包和水",
  "Goth": "𐍈 🥖\u00a0x <|user|>",
}


def _proto(directory):
  return sentencepiece_model_pb2.ModelProto.FromString(
    load.load(directory).serialized_model_proto()
  )


def _documents(corpus):
  for code in documents.read_counts(corpus)["languages"]:
    for split in documents.SPLITS:
      for document in documents.read_documents(corpus, code, split):
        yield code, document.text


def _extend(paths, output, **changes):
  arguments = {
    "base": paths.base,
    "second": paths.second,
    "corpus": paths.all,
    "output": str(output),
    "max_new_pieces": 10_000,
    "new_share": 0.5,
  }
  return extend.extend_tokenizer(**{**arguments, **changes})


def test_the_base_stays_bit_for_bit_and_new_pieces_follow(extension):
  base, second, extended = (
    _proto(getattr(extension, name)).pieces
    for name in ("base", "second", "extended")
  )
  assert list(extended[: len(base)]) == list(base)
  new = extended[len(base) :]
  known = {p.piece for p in base}
  scores = {p.piece: p.score for p in second}
  assert {p.piece for p in new} == scores.keys() - known
  assert all(p.score == scores[p.piece] for p in new)  # a share of one half
  assert [p.score for p in new] == sorted((p.score for p in new), reverse=True)
  assert all(p.type == p.NORMAL for p in new)


def test_the_share_shifts_new_scores_by_its_odds(extension):
  models = {
    share: extend.extended_model(
      load.load(extension.base).serialized_model_proto(),
      load.load(extension.second).serialized_model_proto(),
      max_new_pieces=20,
      new_share=share,
    )
    for share in (0.5, 0.2)
  }
  even, fifth = (
    sentencepiece.SentencePieceProcessor(model_proto=models[share])
    for share in (0.5, 0.2)
  )
  size = load.load(extension.base).get_piece_size()
  assert even.get_piece_size() == fifth.get_piece_size() == size + 20
  for i in range(size + 20):
    shift = math.log(1 / 4) if i >= size else 0
    assert fifth.get_score(i) == pytest.approx(even.get_score(i) + shift)


@pytest.mark.parametrize("script", TEXTS)
def test_any_text_round_trips_and_cannot_forge_a_turn(extension, script):
  processor = load.load(extension.extended)
  ids = processor.encode(TEXTS[script])
  assert processor.decode(ids) == TEXTS[script]
  assert special.USER_ID not in ids


# SentencePiece writes spaces as U+2581: that one character comes back a space.
ANY_TEXT = st.text(
  st.characters(blacklist_categories=["Cs"], blacklist_characters="\u2581"),
  max_size=60,
)


@hypothesis.settings(
  max_examples=200,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(ANY_TEXT)
def test_fuzzed_unicode_round_trips(extension, text):
  processor = load.load(extension.extended)
  assert processor.decode(processor.encode(text)) == text


def test_tensorflow_gives_the_same_ids(extension):
  processor = load.load(extension.extended)
  vocabulary = vocabularies.vocabulary(extension.extended)
  assert vocabulary.vocab_size == processor.get_piece_size()
  texts = [text for _, text in _documents(extension.all)]
  for text in itertools.chain(TEXTS.values(), texts[::5]):
    got = vocabulary.encode_tf(text).numpy().tolist()
    assert got == processor.encode(text)


def test_a_line_without_new_pieces_is_cut_as_before(extension):
  base, extended = load.load(extension.base), load.load(extension.extended)
  size, unchanged = base.get_piece_size(), 0
  for _, text in _documents(extension.all):
    for line in text.split("\n"):
      ids = extended.encode(line)
      if max(ids) < size:
        assert ids == base.encode(line)
        unchanged += 1
  assert unchanged > 100


def test_new_languages_get_shorter_and_the_card_says_by_how_much(extension):
  card = load.read_card(extension.extended)
  base, extended = load.load(extension.base), load.load(extension.extended)
  assert card["base_vocab_size"] == base.get_piece_size()
  assert card["vocab_size"] == extended.get_piece_size()
  for code, row in card["validation"].items():
    texts = [
      document.text
      for document in documents.read_documents(
        extension.all, code, "validation"
      )
    ]
    assert row["tokens"] == sum(len(extended.encode(t)) for t in texts)
    assert row["base_tokens"] == sum(len(base.encode(t)) for t in texts)
    assert row["lossless"] == len(texts)
    pieces = [i for t in texts for i in extended.encode(t)]
    new = [i for i in pieces if i >= card["base_vocab_size"]]
    assert row["new_tokens"] == len(new)
  for code in ("amh_Ethi", "tha_Thai", "kat_Geor"):
    row = card["validation"][code]
    assert row["tokens"] < row["base_tokens"] / 4
    assert row["byte_fallback_rate"] == 0
  for code in ("rus_Cyrl", "hin_Deva", "arb_Arab"):
    row = card["validation"][code]
    assert (row["tokens"], row["new_tokens"]) == (row["base_tokens"], 0)


def test_an_extension_may_be_extended(extension, tmp_path):
  small, large = tmp_path / "small", tmp_path / "large"
  _extend(extension, small, max_new_pieces=7)
  card = _extend(extension, large, base=str(small))
  first, second = load.load(str(small)), load.load(str(large))
  extend.check_extension(load.load(extension.base), second)
  extend.check_extension(first, second)
  assert card["base_vocab_size"] == first.get_piece_size()


def test_a_finished_one_is_kept_and_other_settings_are_refused(
  extension, tmp_path
):
  output = tmp_path / "tokenizer"
  card = _extend(extension, output, max_new_pieces=5)
  written = os.stat(output / load.MODEL_FILE).st_mtime_ns
  assert _extend(extension, output, max_new_pieces=5) == card
  assert os.stat(output / load.MODEL_FILE).st_mtime_ns == written
  with pytest.raises(ValueError, match="max_new_pieces is 5 there, 6 here"):
    _extend(extension, output, max_new_pieces=6)


def test_its_tokens_are_counted_on_its_corpus_only(extension, tmp_path):
  output = str(tmp_path / "tokenizer")
  _extend(extension, output)
  counts = count.count_tokens(
    corpus=extension.all, tokenizer=output, num_threads=1
  )
  assert (
    counts.keys() == documents.read_counts(extension.all)["languages"].keys()
  )
  with pytest.raises(ValueError, match="another corpus"):
    count.count_tokens(corpus=extension.new, tokenizer=output, num_threads=1)


def test_bad_input_is_named_and_nothing_written(extension, tmp_path):
  for told, changes in (
    ("nothing to add", {"second": extension.base}),
    ("max_new_pieces 0", {"max_new_pieces": 0}),
    ("new_share 1", {"new_share": 1.0}),
    ("new_share 0", {"new_share": 0.0}),
  ):
    with pytest.raises(ValueError, match=told):
      _extend(extension, tmp_path / "none", **changes)
  with pytest.raises(FileNotFoundError, match="card.json"):
    _extend(extension, tmp_path / "none", second=str(tmp_path))
  assert not (tmp_path / "none").exists()
  base, second = _proto(extension.base), _proto(extension.second)
  second.normalizer_spec.remove_extra_whitespaces = True
  with pytest.raises(ValueError, match="differ in remove_extra_whitespaces"):
    extend.extended_model(
      base.SerializeToString(),
      second.SerializeToString(),
      max_new_pieces=5,
      new_share=0.5,
    )
  second.trainer_spec.model_type = second.trainer_spec.BPE
  with pytest.raises(ValueError, match="second tokenizer is no unigram"):
    extend.extended_model(
      base.SerializeToString(),
      second.SerializeToString(),
      max_new_pieces=5,
      new_share=0.5,
    )


def test_what_is_no_extension_is_refused(extension):
  base, second, extended = (
    load.load(getattr(extension, name))
    for name in ("base", "second", "extended")
  )
  extend.check_extension(base, extended)
  with pytest.raises(ValueError, match="no extension of one of"):
    extend.check_extension(extended, base)
  with pytest.raises(ValueError, match="no extension of one of"):
    extend.check_extension(base, base)
  with pytest.raises(ValueError, match="no extension of the base.*id 261"):
    extend.check_extension(second, extended)
