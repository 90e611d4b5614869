"""The document record: round trips, and errors that say what to do."""

import gzip
import json

import pytest

from mlm.text import documents

TEXTS = ["bread", "хлеб", "ขนมปัง", "रोटी\nपानी", "خبز", "面包", "ዳቦ"]


def _document(text):
  return documents.Document(
    url="http://a.example/",
    timestamp="2026-01-01T00:00:00Z",
    text=text,
    language="eng_Latn",
    language_probability=0.5,
  )


def _corpus(folder, texts):
  shard = folder / "eng_Latn" / "train-00000-of-00001.jsonl.gz"
  shard.parent.mkdir(parents=True)
  lines = "".join(documents.to_json(_document(t)) + "\n" for t in texts)
  shard.write_bytes(gzip.compress(lines.encode()))
  counts = {"documents": len(texts), "words": 1, "characters": 1, "bytes": 1}
  (folder / "counts.json").write_text(
    json.dumps(
      {
        "pipeline": "mc4",
        "languages": {"eng_Latn": {"train": counts}},
        "stages": [],
        "funnel": {},
      }
    )
  )
  return shard


@pytest.mark.parametrize("text", TEXTS)
def test_records_round_trip(text):
  line = documents.to_json(_document(text))
  assert "\n" not in line
  assert documents.from_json(line) == _document(text)


def test_a_corpus_is_read_in_order(tmp_path):
  _corpus(tmp_path, TEXTS)
  got = documents.read_documents(tmp_path, "eng_Latn", "train")
  assert [d.text for d in got] == TEXTS


def test_a_cut_shard_is_named(tmp_path):
  shard = _corpus(tmp_path, TEXTS * 50)
  shard.write_bytes(shard.read_bytes()[:-20])
  with pytest.raises(ValueError, match="cut off or broken"):
    list(documents.read_documents(tmp_path, "eng_Latn", "train"))


def test_a_bad_line_is_numbered(tmp_path):
  shard = _corpus(tmp_path, ["a"])
  shard.write_bytes(gzip.compress(b'{"url": 3}\n'))
  with pytest.raises(ValueError, match="line 1"):
    list(documents.read_documents(tmp_path, "eng_Latn", "train"))


def test_an_unfinished_corpus_says_what_to_run(tmp_path):
  with pytest.raises(FileNotFoundError, match="run the pipeline"):
    documents.read_counts(tmp_path)
  with pytest.raises(FileNotFoundError, match="no corpus at"):
    documents.read_counts(tmp_path / "nowhere")


def test_language_and_split_are_checked_by_the_call(tmp_path):
  _corpus(tmp_path, TEXTS)
  with pytest.raises(ValueError, match="it has eng_Latn"):
    documents.read_documents(tmp_path, "zul_Latn", "train")
  with pytest.raises(ValueError, match="validation"):
    documents.read_documents(tmp_path, "eng_Latn", "test")


def test_a_split_that_was_not_counted_is_empty(tmp_path):
  _corpus(tmp_path, TEXTS)
  read = documents.read_documents(tmp_path, "eng_Latn", "validation")
  assert list(read) == []


def test_lost_shards_are_not_an_empty_language(tmp_path):
  shard = _corpus(tmp_path, TEXTS)
  shard.rename(shard.with_name("train-00001-of-00003.jsonl.gz"))
  with pytest.raises(FileNotFoundError, match=r"\[0, 2\] of train"):
    documents.read_documents(tmp_path, "eng_Latn", "train")
  shard.with_name("train-00001-of-00003.jsonl.gz").unlink()
  with pytest.raises(FileNotFoundError, match=r"\[0\] of train"):
    documents.read_documents(tmp_path, "eng_Latn", "train")


def test_shards_of_two_runs_are_refused(tmp_path):
  shard = _corpus(tmp_path, TEXTS)
  shard.with_name("train-00000-of-00002.jsonl.gz").write_bytes(b"")
  with pytest.raises(ValueError, match="two runs"):
    documents.read_documents(tmp_path, "eng_Latn", "train")


@pytest.mark.parametrize(
  "change, words",
  [
    ({"extra": 1}, "extra"),
    ({"text": None}, "'text'"),
    ({"language_probability": "0.5"}, "language_probability"),
  ],
)
def test_a_record_of_another_shape_is_refused(change, words):
  record = json.loads(documents.to_json(_document("a")))
  with pytest.raises(ValueError, match=words):
    documents.from_json(json.dumps({**record, **change}))


def test_a_corpus_for_other_readers_is_refused(tmp_path):
  counts = {"format": "parquet", "languages": {}}
  (tmp_path / "counts.json").write_text(json.dumps(counts))
  with pytest.raises(ValueError, match="--format=jsonl.gz"):
    documents.read_counts(tmp_path)
