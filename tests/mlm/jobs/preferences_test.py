"""Pairs from public formats, built by translation, and mixed by language."""

import collections
import gzip
import json

import pytest

from mlm.alignment import preference_mixtures, preference_readers
from mlm.instructions import records, translate
from mlm.jobs import build_preferences as build_job
from mlm.jobs import convert_preferences as convert_job
from mlm.jobs import mix_preferences as mix_job

CODES = ("eng_Latn", "deu_Latn", "por_Latn", "tur_Latn", "vie_Latn", "hin_Deva")


class Bytes:
  """A tokenizer of UTF-8 bytes."""

  @staticmethod
  def encode(text):
    return list(text.encode())


def _row(number, code="en"):
  return {
    "lang": code,
    "prompt": f"prompt {number}",
    "chosen": "good",
    "rejected": "bad",
  }


def _convert(tmp_path, monkeypatch, data, name="rows.jsonl.gz", **change):
  monkeypatch.setattr(convert_job.load, "load", lambda path: Bytes())
  path = tmp_path / name
  path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  arguments = dict(
    inputs=str(path),
    reader=preference_readers.trl(
      language_of=preference_readers.by_field("lang", "bcp47")
    ),
    source="test",
    tokenizer="",
    output=str(tmp_path / "out"),
    prompt_length=20,
    validation_modulus=4,
  )
  convert_job.convert_preferences(**{**arguments, **change})
  return {
    split: records.read_records(tmp_path / "out" / f"{split}.jsonl")
    for split in ("train", "validation", "left_out")
  }


def test_bad_rows_are_counted_and_kept_aside_and_the_rest_goes_on(
  tmp_path, monkeypatch, capsys
):
  lines = [json.dumps(_row(i, "hi" if i % 2 else "en")) for i in range(40)]
  long = {**_row(0), "prompt": "x" * 19}
  bad = [
    json.dumps(long).encode(),
    b'{"prompt": "cut',
    b'{"prompt": "\xff", "lang": "en"}',
    b"[1]",
    json.dumps(_row(0, "tlh")).encode(),
    json.dumps({**_row(0), "chosen": "bad"}).encode(),
  ]
  data = b"\n".join([*(line.encode() for line in lines), *bad])
  found = _convert(tmp_path, monkeypatch, data)
  assert len(found["train"]) + len(found["validation"]) == 40
  assert {p["language"] for p in found["train"]} == {"eng_Latn", "hin_Deva"}
  reasons = [row["reason"].split(":")[0] for row in found["left_out"]]
  assert reasons[0] == "prompt_too_long"
  assert reasons[4:] == ["language", "equal"]
  assert [row["line"] for row in found["left_out"]] == list(range(41, 47))
  (counts,) = records.read_records(tmp_path / "out" / "counts.json")
  assert counts["und"] == {"malformed": 3, "language": 1, "equal": 1}
  assert counts["eng_Latn"]["prompt_too_long"] == 1
  assert "hin_Deva: train" in capsys.readouterr().out


def test_a_conversation_is_on_one_side_only(tmp_path, monkeypatch):
  rows = [
    {**_row(i // 3), "prompt": f"p {i // 3}", "chosen": f"good {i}"}
    for i in range(90)
  ]
  data = "\n".join(map(json.dumps, rows)).encode()
  found = _convert(tmp_path, monkeypatch, data, "rows.jsonl")
  sides = [
    {pair["prompt"] for pair in found[split]}
    for split in ("train", "validation")
  ]
  assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_files_that_cannot_be_read_are_errors(tmp_path, monkeypatch):
  data = gzip.compress(b"\n".join([json.dumps(_row(1)).encode()] * 99))
  path = tmp_path / "cut.jsonl.gz"
  path.write_bytes(data[:-20])
  with pytest.raises(ValueError, match="cut.jsonl.gz is cut short"):
    _convert(tmp_path, monkeypatch, b"", inputs=str(path))
  with pytest.raises(FileNotFoundError, match="no file matches"):
    _convert(tmp_path, monkeypatch, b"", inputs=str(tmp_path / "none"))
  with pytest.raises(ValueError, match="no pair to train on"):
    _convert(tmp_path, monkeypatch, b'{"lang": "en"}')


def _built(tmp_path):
  """Files for the builder; returns its arguments."""
  prompts = [{"id": str(i), "prompt": f"question {i}"} for i in range(12)]
  answers = {p["prompt"]: f"re {p['prompt']}" for p in prompts}
  records.write_records(tmp_path / "prompts.jsonl", prompts)
  records.write_records(
    tmp_path / "translations.jsonl",
    [
      {
        "source": "eng_Latn",
        "target": code,
        "text": text,
        "translation": f"{code} {text}",
      }
      for code in CODES
      for text in (*answers, *answers.values())
    ],
  )
  records.write_records(
    tmp_path / "rejected.jsonl",
    [
      {"language": "eng_Latn", "prompt": prompt, "response": answer}
      for prompt, answer in answers.items()
    ],
  )
  records.write_records(
    tmp_path / "chosen.jsonl",
    [
      {"language": code, "prompt": text, "response": f"!{text}"}
      for code in CODES
      for prompt in answers
      for text in (prompt, f"{code} {prompt}")
    ],
  )

  def generator(name):
    return translate.generator_from_file(path=str(tmp_path / name))

  return dict(
    prompts=str(tmp_path / "prompts.jsonl"),
    translator=translate.translator_from_file(
      path=str(tmp_path / "translations.jsonl")
    ),
    chosen=generator("chosen.jsonl"),
    rejected=generator("rejected.jsonl"),
    mixture="ML-5",
    num_rows=30,
    output=str(tmp_path / "built"),
    batch_size=4,
    validation_modulus=3,
    seed=5,
  )


def test_builder_makes_a_mixture_and_goes_on_where_it_was_killed(tmp_path):
  arguments = _built(tmp_path)
  calls = []

  def killed(texts, source, target):
    calls.append(target)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return arguments["translator"](texts, source, target)

  with pytest.raises(KeyboardInterrupt):
    build_job.build_preferences(**{**arguments, "translator": killed})
  build_job.build_preferences(**{**arguments, "translator": killed})
  # The language that was under way is made again, those before are not.
  assert calls.count(calls[0]) == 2
  pairs = {
    split: records.read_records(tmp_path / "built" / f"{split}.jsonl")
    for split in ("train", "validation")
  }
  both = [*pairs["train"], *pairs["validation"]]
  assert collections.Counter(p["language"] for p in both) == dict.fromkeys(
    preference_mixtures.MIXTURES["ML-5"], 6
  )
  sources = [{p["source_id"] for p in of} for of in pairs.values()]
  assert not sources[0] & sources[1]
  turkish = next(p for p in both if p["language"] == "tur_Latn")
  question = f"tur_Latn question {turkish['source_id']}"
  assert turkish["prompt"] == question
  assert turkish["chosen"] == f"!{question}"
  assert turkish["rejected"] == f"tur_Latn re question {turkish['source_id']}"

  mixed = tmp_path / "mixed"
  mix_job.mix_preferences(
    inputs=[arguments["output"]],
    mixture="EN-1",
    num_rows=2,
    output=str(mixed),
    seed=0,
  )
  drawn = records.read_records(mixed / "train.jsonl")
  assert [p["language"] for p in drawn] == ["eng_Latn"] * 2
  kept = records.read_records(mixed / "validation.jsonl")
  assert kept == pairs["validation"]


def test_a_file_that_lacks_a_text_names_it(tmp_path):
  arguments = _built(tmp_path)
  with pytest.raises(ValueError, match="chosen.jsonl lacks 1 of 1.*unseen"):
    arguments["chosen"](["unseen"], "eng_Latn")
  records.write_records(tmp_path / "bad.jsonl", [{"language": "eng_Latn"}])
  with pytest.raises(ValueError, match="line 1: language, prompt, response"):
    translate.generator_from_file(path=str(tmp_path / "bad.jsonl"))
