"""Batches by index: exact shares, any host count, any restart, any phase."""

import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mlm.data import (
  cache,
  features,
  indexed,
  objectives,
  schedule,
  token_stream,
  ul2,
)
from mlm.languages import rates, registry
from mlm.tokenizers import special

SIZES = {"eng_Latn": 60_000, "swh_Latn": 9_000, "tha_Thai": 700, "yor_Latn": 21}
TASKS = {code: f"indexed_test.{code}" for code in SIZES}
SHA256 = "0" * 64
LENGTH = 32


def _documents(code):
  """Documents of tokens that tell language, document and place."""
  rng = np.random.default_rng(len(code) + SIZES[code])
  left = SIZES[code]
  while left:
    size = min(left, int(rng.integers(1, 120)))
    left -= size
    tokens = rng.integers(300, 30_000, size)
    tokens[-1] = special.EOS_ID
    yield tokens.astype(np.int32)


def _register(code):
  def dataset(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_generator(
      lambda: ({"targets": tokens} for tokens in _documents(code)),
      output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )

  seqio.TaskRegistry.remove(TASKS[code])
  seqio.TaskRegistry.add(
    TASKS[code],
    source=seqio.FunctionDataSource(dataset, splits=["train"]),
    output_features={
      "targets": seqio.Feature(
        seqio.PassThroughVocabulary(30_000), add_eos=False, dtype=tf.int32
      )
    },
  )


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
  output = tmp_path_factory.mktemp("cache")
  for code in SIZES:
    _register(code)
  _write(output)
  return output


def _write(output, sha256=SHA256):
  cache.write_cache(
    tasks=list(TASKS.values()),
    split="train",
    output=str(output),
    tokenizer_sha256=sha256,
  )


def _streams(output):
  return {
    task: token_stream.TokenStream(str(output), task, "train", SHA256)
    for task in TASKS.values()
  }


def _rates(temperature=2.0):
  of_code = rates.temperature_rates(SIZES, temperature=temperature)
  return {TASKS[code]: rate for code, rate in of_code.items()}


def _batch(output, *, phases=None, places=None, batch_size=8, seed=0, **more):
  phases = phases or [schedule.Phase(0, _rates())]
  return indexed.batch_function(
    streams=_streams(output),
    schedule=schedule.Schedule(phases, batch_size=batch_size, seed=seed),
    objective=more.pop("objective", objectives.causal(length=LENGTH)),
    seed=seed,
    places=range(batch_size) if places is None else places,
  )


def _equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_stream_is_the_documents_one_after_the_other(cached):
  for code, task in TASKS.items():
    expected = np.concatenate(list(_documents(code)))
    stream = _streams(cached)[task]
    assert stream.num_tokens == len(expected) == SIZES[code]
    rng = np.random.default_rng(0)
    for _ in range(20):
      start = int(rng.integers(len(expected)))
      size = int(rng.integers(1, len(expected) + 1))
      np.testing.assert_array_equal(
        stream.read(start, size), np.roll(expected, -start)[:size]
      )


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_permuted_hits_every_index_once(size):
  orders = [
    [schedule.permuted(i, size, key) for i in range(size)] for key in (1, 2)
  ]
  assert sorted(orders[0]) == list(range(size))
  if size > 3:
    assert orders[0] != orders[1] and orders[0] != list(range(size))


def test_an_epoch_takes_every_row_once_and_the_next_in_another_order(cached):
  stream = _streams(cached)[TASKS["swh_Latn"]]
  rows = indexed._Rows(stream, 30, key=5)
  windows = [rows.window(n) for n in range(2 * 300)]
  text = np.concatenate(list(_documents("swh_Latn")))
  for epoch in (windows[:300], windows[300:]):
    # 300 rows of 30 are all 9,000 tokens.
    joined = np.sort(np.concatenate(epoch))
    np.testing.assert_array_equal(joined, np.sort(text))
  assert not np.array_equal(windows[0], windows[300])


@pytest.mark.parametrize("method", ["temperature", "unimax", "shares"])
def test_shares_are_exact_and_no_language_passes_its_cap(method):
  """4 standard errors at 10⁵ draws are asked; a few draws is what it is."""
  draws, max_epochs = 100_000, 4
  num_rows = {code: n / LENGTH for code, n in SIZES.items()}
  if method == "temperature":
    wanted = rates.temperature_rates(SIZES, temperature=10 / 3)
  elif method == "shares":
    wanted = dict(zip(SIZES, (0.7, 0.2, 0.09, 0.01)))
  else:
    big = {code: n * 50 for code, n in num_rows.items()}
    amounts = rates.unimax_amounts(big, budget=draws, max_epochs=max_epochs)
    assert math.isclose(sum(amounts.values()), draws)
    wanted = {code: a / draws for code, a in amounts.items()}
  phases = [schedule.Phase(0, {TASKS[c]: p for c, p in wanted.items()})]
  plan = schedule.Schedule(phases, batch_size=100, seed=3)
  counts = plan.counts(draws // 100)
  listed = [t for step in range(200) for t, _ in plan.draws(step, range(100))]
  for code, p in wanted.items():
    count = counts[TASKS[code]]
    assert abs(count - draws * p) <= 4 * math.sqrt(draws * p * (1 - p))
    assert abs(count - draws * p) <= 3
    assert abs(listed.count(TASKS[code]) - 20_000 * p) <= 3
    if method == "unimax":
      assert count <= max_epochs * big[code] + 3


def test_numbers_of_a_task_count_up_without_a_gap_across_phases():
  phases = [
    schedule.Phase(0, _rates()),
    schedule.Phase(37, _rates(temperature=100.0)),
    schedule.Phase(90, _rates(temperature=1.0)),
  ]
  plan = schedule.Schedule(phases, batch_size=50, seed=1)
  seen = {task: [] for task in plan.tasks}
  for step in range(150):
    for task, number in plan.draws(step, range(50)):
      seen[task].append(number)
  for task, numbers in seen.items():
    assert numbers == list(range(len(numbers)))
    assert len(numbers) == plan.counts(150)[task]


def test_cycles_follow_each_other(monkeypatch):
  monkeypatch.setattr(schedule, "_CYCLE", 64)
  schedule._cycle.cache_clear()
  plan = schedule.Schedule([schedule.Phase(0, _rates())], batch_size=10, seed=1)
  seen = {task: [] for task in plan.tasks}
  for step in range(100):
    for task, number in plan.draws(step, range(10)):
      seen[task].append(number)
  assert all(numbers == list(range(len(numbers))) for numbers in seen.values())
  assert {t: len(n) for t, n in seen.items()} == plan.counts(100)
  schedule._cycle.cache_clear()


def test_a_host_makes_the_rows_of_the_whole_batch_that_it_asks_for(cached):
  whole = _batch(cached)
  for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [7], [0, 3, 4]):
    part = _batch(cached, places=rows)
    for step in (0, 7, 123_456):
      of_whole = {name: of[rows] for name, of in whole(step).items()}
      _equal(part(step), of_whole)


def test_shares_of_real_positions_are_those_of_batches(cached):
  causal = objectives.causal(length=LENGTH)
  shares = indexed.real_shares(SIZES, causal)
  expected = dict.fromkeys(SIZES, 1.0) | {"yor_Latn": 21 / 32}
  assert shares == {"decoder_target_tokens": pytest.approx(expected)}
  denoised = ul2.encoder_decoder(
    inputs_length=LENGTH,
    denoisers=ul2.published_denoisers(),
    vocab_size=31_000,
  )
  shares = indexed.real_shares(SIZES, denoised)
  batch, seen = _batch(cached, objective=denoised, batch_size=200), {}
  for step in range(5):
    made = batch(step)
    for name in shares:
      index = registry.index("eng_Latn")
      of = made[name][made["decoder_language_ids"][:, 0] == index]
      seen.setdefault(name, []).append(of != 0)
  for name, of_code in shares.items():
    rows = np.concatenate(seen[name]).mean(axis=1)
    error = rows.std() * (len(rows) ** -0.5 + 1000**-0.5)
    assert abs(rows.mean() - of_code["eng_Latn"]) < 4 * error


def test_a_restart_and_a_later_change_of_rates_change_no_earlier_batch(cached):
  phases = [schedule.Phase(0, _rates()), schedule.Phase(20, _rates(100.0))]
  changed, plain = _batch(cached, phases=phases), _batch(cached)
  for step in (19, 3, 0):
    _equal(changed(step), plain(step))
  _equal(changed(25), _batch(cached, phases=phases)(25))
  with pytest.raises(AssertionError):
    _equal(changed(25), plain(25))
  ahead = indexed.prefetched(
    changed, start_step=18, num_steps=24, ahead=3, workers=2
  )
  for step, batch in enumerate(ahead, start=18):
    _equal(batch, changed(step))
  assert step == 23


def test_rows_are_what_seqio_packs(cached):
  """The same documents, cut where the window cuts them, through its converter."""
  batch = _batch(cached, batch_size=12)(2)
  converter = features.PackedDecoderConverter(pack=True)
  for row in range(12):
    targets = batch["decoder_target_tokens"][row]
    size = int(np.sum(targets != 0))
    (index,) = set(batch["decoder_language_ids"][row][:size])
    cuts = np.flatnonzero(targets[:size] == special.EOS_ID) + 1
    parts = [p for p in np.split(targets[:size], cuts) if len(p)]
    dataset = tf.data.Dataset.from_generator(
      lambda parts=parts, index=index: (
        {"targets": p, "language_ids": np.full(len(p), index + 1, np.int32)}
        for p in parts
      ),
      output_signature={
        name: tf.TensorSpec([None], tf.int32)
        for name in ("targets", "language_ids")
      },
    )
    lengths = {"targets": LENGTH, "language_ids": LENGTH}
    (packed,) = converter(dataset, lengths).as_numpy_iterator()
    assert packed.keys() == batch.keys()
    for name in packed:
      np.testing.assert_array_equal(packed[name], batch[name][row], name)
    assert TASKS[registry.codes()[index]]


def test_other_seeds_give_other_batches(cached):
  with pytest.raises(AssertionError):
    _equal(_batch(cached)(0), _batch(cached, seed=1)(0))


def test_a_cache_is_kept_and_another_tokenizer_refused(cached):
  path = cached / TASKS["eng_Latn"] / "train.json"
  before = path.stat().st_mtime_ns
  _write(cached)
  assert path.stat().st_mtime_ns == before
  with pytest.raises(ValueError, match="not of 111111111111"):
    _write(cached, "1" * 64)


def test_damage_is_named(tmp_path):
  for code in SIZES:
    _register(code)
  _write(tmp_path)
  task = TASKS["eng_Latn"]
  (path,) = (tmp_path / task).glob("*.array_record")
  whole = path.read_bytes()
  flipped = bytearray(whole)
  flipped[100_000] ^= 255
  path.write_bytes(flipped)
  stream = token_stream.TokenStream(str(tmp_path), task, "train", SHA256)
  with pytest.raises(ValueError, match=r"record \d+ of .* is damaged"):
    stream.read(0, stream.num_tokens)
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match="cut off"):
    token_stream.TokenStream(str(tmp_path), task, "train", SHA256)
  path.unlink()
  with pytest.raises(FileNotFoundError, match="copy the cache whole"):
    token_stream.TokenStream(str(tmp_path), task, "train", SHA256)
  with pytest.raises(FileNotFoundError, match="cache_tokens"):
    token_stream.TokenStream(str(tmp_path), "no.task", "train", SHA256)


def test_mistakes_in_a_schedule_are_named(cached):
  good = _rates()
  for phases, told in (
    ([schedule.Phase(1, good)], "first must be 0"),
    ([schedule.Phase(0, good), schedule.Phase(0, good)], "later"),
    ([schedule.Phase(0, {"a": 0.5, "b": 0.6})], "sum to 1.1"),
    ([schedule.Phase(0, good), schedule.Phase(5, {"a": 1.0})], "from step 5"),
  ):
    with pytest.raises(ValueError, match=told):
      schedule.Schedule(phases, batch_size=8, seed=0)
  with pytest.raises(ValueError, match="each in the batch"):
    _batch(cached, places=[0, 8])
