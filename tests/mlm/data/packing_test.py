"""Packed rows by number: nothing lost, seqio's rows, exact shares, any hosts."""

import dataclasses
import math

import hypothesis
import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import strategies as st

from mlm.data import example_mixture, packing, prompts, schedule
from mlm.languages import registry
from mlm.models import decoder
from tests import tiny_models

CODES = ("eng_Latn", "rus_Cyrl", "tha_Thai", "hin_Deva", "arb_Arab", "yor_Latn")


class _Store:
  """An `ExampleStore` in memory whose tokens tell example, side and place."""

  def __init__(self, task, inputs, targets):
    self.task, self.language = task, task.rpartition(".")[2]
    self.lengths = {
      "inputs": np.array(inputs, np.int32),
      "targets": np.array(targets, np.int32),
    }
    self.num_examples = len(inputs)

  def read(self, numbers):
    return [
      {
        name: np.int32(2 + 100 * n + 10 * side + np.arange(of[n]) % 10)
        for side, (name, of) in enumerate(self.lengths.items())
      }
      for n in numbers
    ]


def _store(code="eng_Latn", num=200, seed=0, longest=12, source="human"):
  rng = np.random.default_rng((seed, *code.encode(), num))
  sizes = rng.integers(1, longest, (2, num))
  return _Store(f"{source}.{code}", *sizes)


def _rows(store, layout=None, too_long="refuse", seed=0):
  layout = layout or packing.prefix(length=32)
  return packing.PackedRows(store, layout, too_long=too_long, seed=seed)


LAYOUTS = {
  "prefix": packing.prefix(length=32),
  "response": packing.response(length=32),
  "encoder_decoder": packing.encoder_decoder(
    inputs_length=16, targets_length=20
  ),
}


def _naive(sizes, limits):
  """Rows as lists of examples, one example at a time."""
  rows, left = [], None
  for example in range(sizes.shape[1]):
    need = sizes[:, example]
    if left is None or (need > left).any():
      rows.append([])
      left = np.array(limits)
    left = left - need
    rows[-1].append(example)
  return rows


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), min_size=1),
  st.integers(9, 30),
  st.integers(7, 30),
)
def test_rows_are_those_of_a_naive_packer(sizes, first, second):
  sizes = np.array(sizes).T
  starts = packing.next_fit(sizes, (first, second))
  found = [list(range(a, b)) for a, b in zip(starts, starts[1:])]
  assert found == _naive(sizes, (first, second))


@hypothesis.given(
  st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1),
  st.integers(0, 5),
  st.sampled_from(sorted(LAYOUTS)),
)
@hypothesis.settings(deadline=None)
def test_an_epoch_has_every_example_once(sizes, seed, layout):
  store = _Store("human.eng_Latn", *np.array(sizes).T)
  rows = _rows(store, LAYOUTS[layout], "truncate", seed)
  number = 0
  for _ in range(3):
    seen = []
    while len(seen) < store.num_examples:
      seen += rows.examples(number).tolist()
      number += 1
    assert sorted(seen) == list(range(store.num_examples))


def test_rows_do_not_depend_on_what_was_asked_before():
  store = _store(num=50)
  a, b = _rows(store), _rows(store)
  far = a.examples(1000)
  forward = [b.examples(n) for n in range(1001)]
  np.testing.assert_array_equal(far, forward[1000])
  np.testing.assert_array_equal(a.examples(3), forward[3])
  other = _rows(store, seed=1)
  assert any(
    not np.array_equal(other.examples(n), forward[n]) for n in range(5)
  )


CONVERTERS = {
  "prefix": (
    seqio.PrefixLMFeatureConverter(pack=True),
    {"inputs": 16, "targets": 16},
  ),
  "encoder_decoder": (
    seqio.EncDecFeatureConverter(pack=True),
    {"inputs": 16, "targets": 20},
  ),
}


@pytest.mark.parametrize("layout", CONVERTERS)
def test_rows_are_what_seqio_packs(layout):
  """seqio's converter, given the examples in the order of an epoch.

  As many as it packs at a time: after a batch of the length of a row it closes
  a row even if more would fit.
  """
  store = _store(num=20)
  rows = _rows(store, LAYOUTS[layout])
  ours, order = [], []
  while len(order) < store.num_examples:
    order += rows.examples(len(ours)).tolist()
    ours.append(rows.row(len(ours)))
  dataset = tf.data.Dataset.from_generator(
    lambda: store.read(order),
    output_signature={
      name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")
    },
  )
  converter, lengths = CONVERTERS[layout]
  theirs = list(converter(dataset, lengths).as_numpy_iterator())
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], name)


def test_a_packed_response_is_the_unpacked_one():
  store = _store(num=30)
  rows = _rows(store, LAYOUTS["response"])
  for number in range(12):
    row = rows.row(number)
    assert row["decoder_segment_ids"].max() == len(rows.examples(number))
    for segment, example in enumerate(rows.examples(number), start=1):
      (of,) = store.read([example])
      tokens = np.concatenate([of["inputs"], of["targets"]])
      single = prompts.response_batch(
        tokens[None], [0], prompt_length=len(of["inputs"])
      )
      here = row["decoder_segment_ids"] == segment
      for name in row:
        if name != "decoder_segment_ids":
          expected = single[name][0]
          packed = row[name][here][-len(expected) :]
          np.testing.assert_array_equal(packed, expected, name)
      assert row["decoder_loss_weights"][here].sum() == len(of["targets"])


def test_attention_never_mixes_examples():
  """A tiny decoder's outputs for a packed example are those it has alone."""
  config = dataclasses.replace(
    tiny_models.DECODER,
    vocab_size=4096,
    num_layers=1,
    d_ff=32,
    num_heads=2,
    num_kv_heads=1,
    norm_epsilon=1e-6,
    tie_embeddings=True,
  )
  model = decoder.build(config)
  params = jax.jit(model.init)(jax.random.key(0))
  apply = jax.jit(lambda batch: model.apply(params, batch)["hidden"])
  for layout in ("prefix", "response"):
    row = _rows(_store(num=30), LAYOUTS[layout]).row(0)
    rows = [row]
    for segment in range(1, row["decoder_segment_ids"].max() + 1):
      here = row["decoder_segment_ids"] == segment
      # The example in front, then padding.
      order = np.argsort(~here, kind="stable")
      rows.append({name: (of * here)[order] for name, of in row.items()})
    hidden = apply({name: np.stack([r[name] for r in rows]) for name in row})
    assert len(rows) > 2
    for segment, alone in enumerate(hidden[1:], start=1):
      here = row["decoder_segment_ids"] == segment
      # Sums over another row are taken in another order.
      np.testing.assert_allclose(
        hidden[0][here], alone[: here.sum()], rtol=1e-4, atol=1e-5
      )


def test_what_is_too_long_keeps_its_start_and_its_end():
  store = _Store("human.eng_Latn", [5, 40, 3, 50], [4, 3, 40, 60])
  rows = _rows(store, packing.prefix(length=16), "truncate")
  assert rows.num_too_long == 3
  seen = {}
  for number in range(4):
    row, (example,) = rows.row(number), rows.examples(number)
    real = row["decoder_segment_ids"] > 0
    prompt = real & (row["decoder_loss_weights"] == 0)
    seen[int(example)] = prompt.sum(), real.sum() - prompt.sum()
    targets = row["decoder_target_tokens"]
    (of,) = store.read([example])
    assert targets[real][-1] == of["targets"][-1]
    assert targets[prompt][-1] == of["inputs"][-1]
    assert targets[0] == of["inputs"][0]
  # Targets keep what inputs leave or half of the row.
  assert seen == {0: (5, 4), 1: (13, 3), 2: (3, 13), 3: (8, 8)}
  with pytest.raises(ValueError, match=r"3 of 4 .*the longest \[110\]"):
    _rows(store, packing.prefix(length=16))


def _mixture(rates, *, sizes, batch_size=10, seed=3, too_long="refuse"):
  rows = {}
  for number, (task, num) in enumerate(sizes.items()):
    source, _, code = task.partition(".")
    # Some tasks have short examples, others long ones.
    store = _store(code, num, longest=4 + 2 * number, source=source)
    rows[task] = _rows(store, too_long=too_long)
  plan = example_mixture.plan(rows, rates, num_rows=100_000)
  phase = schedule.Phase(0, {row.task: row.row_rate for row in plan})
  return rows, plan, [phase]


RATES = {
  "human.eng_Latn": 0.30,
  "human.tha_Thai": 0.05,
  "templates.eng_Latn": 0.349,
  "templates.rus_Cyrl": 0.2,
  "templates.yor_Latn": 0.001,
  "translated.arb_Arab": 0.1,
}
SIZES = dict(zip(RATES, (3000, 700, 40_000, 9_000, 17, 100)))


def test_shares_of_examples_are_the_rates_of_the_mixture():
  """Within 4 standard errors at 10⁵ draws, of tasks, sources and languages."""
  rows, plan, phases = _mixture(RATES, sizes=SIZES)
  counts = schedule.Schedule(phases, batch_size=10, seed=3).counts(10_000)
  seen = {
    task: sum(len(rows[task].examples(n)) for n in range(count))
    for task, count in counts.items()
  }
  total = sum(seen.values())
  assert total == pytest.approx(
    sum(row.expected_examples for row in plan), rel=0.01
  )
  means = {row.task: row.examples_a_row for row in plan}
  assert max(means.values()) > 2 * min(means.values())
  for part in (slice(None), slice(0, 1), slice(1, 2)):
    planned, found = {}, {}
    for task, rate in RATES.items():
      key = tuple(task.split(".")[part])
      planned[key] = planned.get(key, 0) + rate
      found[key] = found.get(key, 0) + seen[task]
    for key, rate in planned.items():
      error = 4 * math.sqrt(rate * (1 - rate) / total)
      assert found[key] / total == pytest.approx(rate, abs=error), key
  for row in plan:
    assert seen[row.task] / row.examples == pytest.approx(
      row.expected_epochs, rel=0.05
    )


def _batch(places=None, later=None, batch_size=8, seed=3):
  rows, _, phases = _mixture(RATES, sizes=SIZES)
  if later:
    phases.append(schedule.Phase(20, later))
  return packing.batch_function(
    rows=rows,
    schedule=schedule.Schedule(phases, batch_size=batch_size, seed=seed),
    places=range(batch_size) if places is None else places,
  )


def _equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_batch_is_the_same_on_any_number_of_hosts_and_after_a_restart():
  later = dict.fromkeys(RATES, 1 / len(RATES))
  whole, plain = _batch(later=later), _batch()
  for num_hosts in (1, 2, 4):
    share = 8 // num_hosts
    parts = [
      _batch(later=later, places=range(h * share, (h + 1) * share))
      for h in range(num_hosts)
    ]
    for step in (25, 19, 0, 2_000):
      rows = [part(step) for part in parts]
      joined = {
        name: np.concatenate([row[name] for row in rows]) for name in rows[0]
      }
      _equal(whole(step), joined)
  for step in (19, 0):  # before the rates change
    _equal(whole(step), plain(step))
  with pytest.raises(AssertionError):
    _equal(whole(25), plain(25))
  with pytest.raises(ValueError, match="each in the batch"):
    _batch(places=[7, 8])


def test_every_token_has_its_language_and_task():
  batch = _batch(batch_size=64)(5)
  real = batch["decoder_segment_ids"] > 0
  tasks = sorted(RATES)
  for task, language in zip(
    batch["decoder_task_ids"][real], batch["decoder_language_ids"][real]
  ):
    assert registry.codes()[language] == tasks[task].rpartition(".")[2]
  for name in ("decoder_task_ids", "decoder_language_ids"):
    assert not batch[name][~real].any()


def test_rows_are_counted_in_batches_by_task():
  rows, plan, _ = _mixture(RATES, sizes=SIZES)
  observe = example_mixture.rows_by_task(plan)
  batch = _batch(batch_size=64)(5)
  segments = batch["decoder_segment_ids"].max(axis=1)
  tasks = batch["decoder_task_ids"][:, 0]
  found = observe(batch)
  assert "decoder_task_ids" not in batch
  for index, row in enumerate(plan):
    expected = segments[tasks == index].sum() / row.examples_a_row
    assert found.get(row.task, 0) == pytest.approx(expected)


@pytest.mark.parametrize(
  "call, told",
  [
    (lambda: _rows(_store(), too_long="drop"), "too_long 'drop'"),
    (lambda: packing.prefix(length=1), "no room"),
    (
      lambda: packing.encoder_decoder(inputs_length=0, targets_length=4),
      "at least 1",
    ),
    (
      lambda: _rows(_Store("a.eng_Latn", [3, 0], [4, 4]), LAYOUTS["response"]),
      "example 1 has no inputs",
    ),
    (
      lambda: packing.batch_function(
        rows={},
        schedule=schedule.Schedule(
          [schedule.Phase(0, {"a": 1.0})], batch_size=2, seed=0
        ),
        places=[0, 1],
      ),
      r"no examples of \['a'\]",
    ),
  ],
)
def test_mistakes_are_named(call, told):
  with pytest.raises(ValueError, match=told):
    call()


def test_a_layout_names_the_feature_that_a_task_lacks():
  store = _store()
  del store.lengths["inputs"]
  with pytest.raises(ValueError, match=r"no feature \['inputs'\]"):
    _rows(store)
