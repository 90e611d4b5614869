"""Cached examples: whole, resumable, checked; mixtures with seqio's rates."""

import hashlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mlm import run
from mlm.data import cache, example_mixture, example_store
from mlm.instructions import records
from mlm.jobs import cache_mixture, cache_records
from mlm.languages import registry

SHA256 = "0" * 64
TEXTS = {
  "eng_Latn": "Bread and water",
  "rus_Cyrl": "Хлеб и вода",
  "tha_Thai": "ขนมปังและน้ำ",
  "hin_Deva": "रोटी और पानी",
  "arb_Arab": "خبز وماء",
  "zho_Hani": "面包和水",
  "amh_Ethi": "ዳቦ እና ውሃ",
}
NUM = dict(zip(TEXTS, (40, 20, 10, 8, 6, 4, 2)))


def _task(code, source="store_test"):
  return f"{source}.{code}"


def _examples(code):
  for number in range(NUM[code]):
    text = f"{TEXTS[code]} {number}"
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 6
    cut = 1 + number % 5
    yield {"inputs": tokens[:cut], "targets": tokens[cut:]}, len(text)


def _write(output, code="rus_Cyrl", examples=None, **changed):
  arguments = {
    "output": str(output),
    "task": _task(code),
    "split": "train",
    "features": ("inputs", "targets"),
    "language": code,
    "tokenizer_sha256": SHA256,
    **changed,
  }
  return example_store.write_task(
    _examples(code) if examples is None else examples, **arguments
  )


def _open(output, code="rus_Cyrl", sha256=SHA256):
  return example_store.ExampleStore(str(output), _task(code), "train", sha256)


@pytest.mark.parametrize("code", TEXTS)
def test_examples_come_back_by_number(tmp_path, monkeypatch, code):
  monkeypatch.setattr(example_store, "SHARD_EXAMPLES", 7)  # several shards
  index = _write(tmp_path, code)
  expected = list(_examples(code))
  store = _open(tmp_path, code)
  assert store.language == code
  assert store.num_examples == index["examples"] == NUM[code]
  numbers = np.random.default_rng(0).integers(NUM[code], size=30)
  for number, example in zip(numbers, store.read(numbers)):
    for name, tokens in expected[number][0].items():
      np.testing.assert_array_equal(example[name], tokens)
      assert store.lengths[name][number] == len(tokens)
  assert index["characters"] == sum(characters for _, characters in expected)
  assert index["tokens"] == {
    name: sum(len(tokens[name]) for tokens, _ in expected)
    for name in ("inputs", "targets")
  }


def test_a_finished_task_is_not_read_again_and_a_killed_one_is(tmp_path):
  def killed():
    for number, example in enumerate(_examples("eng_Latn")):
      if number == 20:
        raise KeyboardInterrupt
      yield example

  with pytest.raises(KeyboardInterrupt):
    _write(tmp_path, "eng_Latn", killed())
  with pytest.raises(FileNotFoundError, match="not to its end"):
    _open(tmp_path, "eng_Latn")
  first = _write(tmp_path, "eng_Latn")
  assert _open(tmp_path, "eng_Latn").num_examples == NUM["eng_Latn"]

  def never():
    raise AssertionError("read again")
    yield

  assert _write(tmp_path, "eng_Latn", never()) == first
  assert example_store.cached_tasks(str(tmp_path), "train") == [
    _task("eng_Latn")
  ]


def test_mistakes_are_named_when_written(tmp_path):
  with pytest.raises(ValueError, match="has no examples"):
    _write(tmp_path, examples=())
  empty = {"inputs": np.ones(3), "targets": np.ones(0)}
  with pytest.raises(ValueError, match="example 1 of task .* empty targets"):
    _write(tmp_path, examples=[next(_examples("rus_Cyrl")), (empty, 3)])
  _write(tmp_path)
  with pytest.raises(ValueError, match="not of 111111111111"):
    _write(tmp_path, tokenizer_sha256="1" * 64)
  with pytest.raises(ValueError, match="delete its folder"):
    _write(tmp_path, language="eng_Latn")
  with pytest.raises(FileNotFoundError, match="cache_records"):
    example_store.cached_tasks(str(tmp_path), "validation")


def test_damage_is_named_when_read(tmp_path):
  _write(tmp_path)
  folder = tmp_path / _task("rus_Cyrl")
  (shard,) = folder.glob("*.array_record")
  lengths = folder / "train.lengths.npy"
  with pytest.raises(ValueError, match="not of 111111111111"):
    _open(tmp_path, sha256="1" * 64)
  whole = shard.read_bytes()
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match="cut off"):
    _open(tmp_path)
  shard.write_bytes(b"\xff" * len(whole))
  with pytest.raises(ValueError, match="cut off"):
    _open(tmp_path)
  shard.unlink()
  with pytest.raises(FileNotFoundError, match="copy the cache whole"):
    _open(tmp_path)
  shard.write_bytes(whole)
  sizes = lengths.read_bytes()
  for wrong in (sizes[:-9], sizes[:-1] + b"\x01", b""):
    lengths.write_bytes(wrong)
    with pytest.raises(ValueError, match="not the lengths"):
      _open(tmp_path)
  lengths.unlink()
  with pytest.raises(FileNotFoundError, match="copy the cache whole"):
    _open(tmp_path)


def test_a_flipped_byte_is_named_when_read(tmp_path):
  noise = np.random.default_rng(0).integers(6, 1 << 30, (30, 1000))
  _write(
    tmp_path,
    examples=[({"inputs": n[:9], "targets": n[9:]}, None) for n in noise],
  )
  (shard,) = (tmp_path / _task("rus_Cyrl")).glob("*.array_record")
  flipped = bytearray(shard.read_bytes())
  flipped[len(flipped) // 2] ^= 255
  shard.write_bytes(flipped)
  with pytest.raises(ValueError, match="damaged"):
    _open(tmp_path).read(np.arange(30))


def _register(name, code, vocabulary=None, keep_text=True, text=None):
  def dataset(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed

    def examples():
      for tokens, _ in _examples(code):
        yield {**tokens, "inputs_pretokenized": text or TEXTS[code].encode()}

    return tf.data.Dataset.from_generator(
      examples,
      output_signature={
        "inputs": tf.TensorSpec([None], tf.int32),
        "targets": tf.TensorSpec([None], tf.int32),
        "inputs_pretokenized": tf.TensorSpec([], tf.string),
      },
    )

  def without_text(data):
    return data.map(lambda e: {"inputs": e["inputs"], "targets": e["targets"]})

  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  feature = seqio.Feature(
    vocabulary or seqio.PassThroughVocabulary(300),
    add_eos=False,
    dtype=tf.int32,
  )
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      dataset, splits=["train"], num_input_examples={"train": NUM[code]}
    ),
    preprocessors=[] if keep_text else [without_text],
    output_features={"inputs": feature, "targets": feature},
  )


def _mixture(output, name, languages=None):
  return cache.write_mixture(
    name=name,
    split="train",
    output=str(output),
    tokenizer_sha256=SHA256,
    languages=languages or {},
  )


@pytest.fixture
def mixture():
  codes = ("eng_Latn", "rus_Cyrl")
  for code in codes:
    _register(_task(code, "seqio_test"), code, keep_text=code != "rus_Cyrl")
  _register("seqio_test_greetings", "hin_Deva")
  for name in ("store_test_inner", "store_test_outer"):
    if name in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(
    "store_test_inner",
    [_task(code, "seqio_test") for code in codes],
    default_rate=seqio.mixing_rate_num_examples,
  )
  seqio.MixtureRegistry.add(
    "store_test_outer", [("store_test_inner", 3), ("seqio_test_greetings", 1)]
  )
  return "store_test_outer"


def test_a_mixture_is_cached_with_the_rates_that_seqio_has(tmp_path, mixture):
  written = _mixture(tmp_path, mixture, {"seqio_test_greetings": "hin_Deva"})
  expected = {
    "seqio_test.eng_Latn": 0.75 * 40 / 60,
    "seqio_test.rus_Cyrl": 0.75 * 20 / 60,
    "seqio_test_greetings": 0.25,
  }
  assert {t: rate for t, (rate, _) in written.items()} == pytest.approx(
    expected
  )
  sampler = example_mixture.by_mixture(name=mixture)
  cached = dict.fromkeys(expected, ("source", 1))
  assert sampler(str(tmp_path), cached) == pytest.approx(expected)
  del cached["seqio_test_greetings"]
  with pytest.raises(FileNotFoundError, match=r"\['seqio_test_greetings'\]"):
    sampler(str(tmp_path), cached)
  store = example_store.ExampleStore(
    str(tmp_path), "seqio_test_greetings", "train", SHA256
  )
  assert store.language == "hin_Deva"
  for number, (tokens, _) in enumerate(_examples("hin_Deva")):
    (found,) = store.read([number])
    for name, of in tokens.items():
      np.testing.assert_array_equal(found[name], of)
  characters = {t: index["characters"] for t, (_, index) in written.items()}
  assert characters["seqio_test.rus_Cyrl"] is None
  assert characters["seqio_test_greetings"] == 8 * len(TEXTS["hin_Deva"])
  with pytest.raises(FileNotFoundError, match="cache_mixture"):
    example_mixture.by_mixture(name="other")(str(tmp_path), {})


def test_mistakes_in_a_mixture_are_named_before_anything_is_written(
  tmp_path, mixture
):
  with pytest.raises(ValueError, match="seqio_test_greetings is not the code"):
    _mixture(tmp_path, mixture)
  with pytest.raises(registry.UnknownLanguageError):
    _mixture(tmp_path, mixture, {"seqio_test_greetings": "hin_Devb"})
  with pytest.raises(ValueError, match=r"\['other'\], which are not tasks"):
    _mixture(tmp_path, mixture, {"other": "hin_Deva"})
  task = _task("tha_Thai", "seqio_test")
  _register(task, "tha_Thai", seqio.ByteVocabulary())
  with pytest.raises(ValueError, match="of tokenizer ByteVocabulary"):
    _mixture(tmp_path, task)
  assert not list(tmp_path.iterdir())
  _register(task, "tha_Thai", text=TEXTS["tha_Thai"].encode()[:-1])
  with pytest.raises(ValueError, match="example 0 of task .* is not UTF-8"):
    _mixture(tmp_path, task)


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
  model = tmp_path / "a.model"
  model.write_bytes(b"a model")
  vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=0)
  task = _task("tha_Thai", "seqio_test")
  _register(task, "tha_Thai", vocabulary)
  found = hashlib.sha256(b"a model").hexdigest()
  with pytest.raises(ValueError, match=f"of tokenizer {found[:32]}, not"):
    _mixture(tmp_path, task)


def test_the_job_imports_what_registers_a_mixture_and_tells_its_sizes(
  tmp_path, monkeypatch, capsys
):
  module = tmp_path / "my_tasks.py"
  module.write_text(
    "from tests.mlm.data import example_store_test as this\n"
    "this._register('job_test.amh_Ethi', 'amh_Ethi')\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(
    cache_mixture.load, "read_card", lambda path: {"model_sha256": SHA256}
  )
  cache_mixture.cache_mixture(
    mixture="job_test.amh_Ethi",
    module="my_tasks",
    split="train",
    tokenizer="",
    languages={},
    output=str(tmp_path / "out"),
  )
  row = capsys.readouterr().out.split("\n")[1].split()
  tokens = sum(len(of) for e, _ in _examples("amh_Ethi") for of in e.values())
  characters = 2 * len(TEXTS["amh_Ethi"])
  assert row == [
    *("job_test.amh_Ethi", "amh_Ethi", "100.0000%", "2"),
    *(str(tokens), str(characters)),
  ]


class _Processor:
  def encode(self, text):
    return [6 + b for b in text.encode()]


@pytest.fixture
def _tokenizer(monkeypatch):
  monkeypatch.setattr(cache_records.load, "load", lambda path: _Processor())
  monkeypatch.setattr(
    cache_records.load, "read_card", lambda path: {"model_sha256": SHA256}
  )


def _records(folder, codes):
  folder.mkdir()
  rows = [
    {"language": c, "prompt": TEXTS[c], "response": f"{TEXTS[c]} {n}"}
    for c in codes
    for n in range(3)
  ]
  records.write_records(folder / "train.jsonl", rows)
  return str(folder)


def test_records_become_a_task_for_each_source_and_language(
  tmp_path, _tokenizer
):
  cache_records.cache_records(
    sources={
      "human": _records(tmp_path / "a", list(TEXTS)),
      "templates": _records(tmp_path / "b", ["amh_Ethi"]),
    },
    tokenizer="",
    output=str(tmp_path / "out"),
  )
  tasks = example_store.cached_tasks(str(tmp_path / "out"), "train")
  assert tasks == sorted(
    [f"human.{code}" for code in TEXTS] + ["templates.amh_Ethi"]
  )
  store = example_store.ExampleStore(
    str(tmp_path / "out"), "human.tha_Thai", "train", SHA256
  )
  (example,) = store.read([2])
  text = TEXTS["tha_Thai"]
  ids = _Processor().encode(text)
  assert example["inputs"].tolist() == [3, *ids, 4]
  ids = _Processor().encode(f"{text} 2")
  assert example["targets"].tolist() == [*ids, 1]


@pytest.mark.parametrize(
  "line, told",
  [
    (
      b'{"language": "tha_Thai", "prompt": "\xff"}',
      "line 2: not JSON in UTF-8",
    ),
    (b'{"language": "tha_Thai", ', "line 2: not JSON"),
    (
      b'{"language": "xxx_Thai", "prompt": "a", "response": "b"}',
      "xxx_Thai is not the code",
    ),
  ],
)
def test_mistakes_in_records_are_named(tmp_path, _tokenizer, line, told):
  folder = _records(tmp_path / "a", ["eng_Latn"])
  rows = (tmp_path / "a" / "train.jsonl").read_bytes().split(b"\n")
  rows[1] = line
  (tmp_path / "a" / "train.jsonl").write_bytes(b"\n".join(rows))
  with pytest.raises(ValueError, match=told):
    cache_records.cache_records(
      sources={"human": folder}, tokenizer="", output=str(tmp_path / "out")
    )


def test_a_mixture_is_trained_on_with_its_overlay(monkeypatch):
  root = run.pathlib.Path(run.__file__).parents[1]
  monkeypatch.chdir(root)
  _, kwargs, _ = run.resolve(
    "cache_mixture",
    ["gin/jobs/cache_mixture.gin"],
    {
      "MIXTURE_OR_TASK_NAME": "a",
      "MIXTURE_OR_TASK_MODULE": "b",
      "TOKENIZER": "c",
      "OUTPUT": "d",
    },
  )
  assert kwargs["languages"] == {} and kwargs["split"] == "train"
  names = ("TOKENIZER", "INITIAL", "EXAMPLES", "OUTPUT")
  _, kwargs, _ = run.resolve(
    "finetune",
    [
      "gin/experiments/quickstart/finetune.gin",
      "gin/data/cached_mixture.gin",
    ],
    {**dict.fromkeys(names, "x"), "MIXTURE": "no_such"},
  )
  with pytest.raises(FileNotFoundError, match="no_such.rates.json"):
    kwargs["sampler"]("x", {})
