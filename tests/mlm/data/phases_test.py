"""Plans of runs in phases: shares, caps over the whole run, what may change."""

import json

import numpy as np
import pytest

from mlm.data import phases, sampling, schedule
from mlm.languages import registry, samplers

COUNTS = {
  code: {"train": {"documents": documents, "tokens": tokens}}
  for code, documents, tokens in (
    ("eng_Latn", 900, 100_000),
    ("rus_Cyrl", 90, 10_000),
    ("tha_Thai", 10, 1_000),
  )
}
CODES = list(COUNTS)


def _shares(*of):
  return samplers.by_shares(shares=dict(zip(CODES, of)), max_epochs=None)


def _plan(pairs, num_steps=10, step_tokens=1000):
  planned, rows = phases.plan_run(
    COUNTS,
    phases=pairs,
    num_steps=num_steps,
    step_tokens=step_tokens,
    languages=CODES,
  )
  return planned, {row.language: row for row in rows}


def _record(planned):
  """As a checkpoint gives them back."""
  return json.loads(
    json.dumps(
      [{"start_step": p.start_step, "rates": p.rates} for p in planned]
    )
  )


EARLY, LATE = _shares(0.7, 0.2, 0.1), _shares(0.4, 0.4, 0.2)


def test_rows_add_the_phases_up():
  planned, rows = _plan([(0, EARLY), (4, LATE)])
  assert [p.start_step for p in planned] == [0, 4]
  expected = {"eng_Latn": 5200, "rus_Cyrl": 3200, "tha_Thai": 1600}
  for code, tokens in expected.items():
    assert rows[code].expected_tokens == pytest.approx(tokens)
    assert rows[code].rate == pytest.approx(tokens / 10_000)
    assert rows[code].expected_epochs == pytest.approx(
      tokens / COUNTS[code]["train"]["tokens"]
    )


def test_the_plan_is_what_the_schedule_draws():
  planned, rows = _plan([(0, EARLY), (300, LATE), (500, EARLY)], num_steps=1000)
  drawn = schedule.Schedule(planned, batch_size=10, seed=0).counts(1000)
  for code, row in rows.items():
    assert abs(drawn[code] - 10_000 * row.rate) <= 6  # 2 a phase


def test_mean_rates_follow_the_phases_from_any_step():
  planned, rows = _plan([(0, EARLY), (4, LATE)])
  for (start, stop), english in {
    (0, 4): 0.7,
    (0, 10): 0.52,
    (3, 5): 0.55,
    (6, 7): 0.4,
  }.items():
    mean = phases.mean_rates(planned, start, stop)
    assert mean["eng_Latn"] == pytest.approx(english)
    assert sum(mean.values()) == pytest.approx(1)
  for code, rate in phases.mean_rates(planned, 0, 10).items():
    assert rate == pytest.approx(rows[code].rate)


@pytest.mark.parametrize("start", [1, 50, 99])
def test_a_later_phase_changes_no_earlier_one(start):
  """Also where rates follow from caps and the steps of the run."""
  capped = samplers.by_unimax(max_epochs=2)
  alone, _ = _plan([(0, capped)], num_steps=100)
  planned, _ = _plan([(0, capped), (start, EARLY)], num_steps=100)
  assert planned[0] == alone[0]


def test_caps_hold_over_all_phases():
  capped = samplers.by_unimax(max_epochs=2)
  uncapped = _shares(0.5, 0.3, 0.2)
  planned, rows = _plan([(0, uncapped), (40, capped)], num_steps=100)
  # 8,000 Thai tokens in the first phase are beyond 2 epochs already.
  assert planned[1].rates["tha_Thai"] < 1e-4
  assert rows["rus_Cyrl"].expected_epochs == pytest.approx(2)
  _, rows = _plan([(0, capped), (40, capped)], num_steps=100)
  assert all(row.expected_epochs <= 2 + 1e-3 for row in rows.values())


def test_phases_begun_may_not_change_and_later_ones_may():
  one, two = _plan([(0, EARLY)])[0], _plan([(0, EARLY), (4, LATE)])[0]
  check = phases.check_begun
  for step in (0, 1, 4):
    check(_record(one), _record(two), step=step)
    check(_record(two), _record(one), step=step)
  with pytest.raises(
    ValueError, match=r"in phases from \[0\], but now .*\[0, 4\]"
  ):
    check(_record(one), _record(two), step=5)
  with pytest.raises(ValueError, match="start at step 5 or later"):
    check(_record(two), _record(one), step=5)
  other = _plan([(0, LATE)])[0]
  check(_record(one), _record(other), step=0)
  with pytest.raises(ValueError, match="eng_Latn had 0.7, now 0.4"):
    check(_record(one), _record(other), step=1)


def test_a_plan_is_read_back(tmp_path):
  planned, rows = _plan([(0, EARLY), (4, LATE)])
  path = str(tmp_path / "mixture.json")
  real = {"decoder_target_tokens": dict.fromkeys(CODES, 0.5)}
  phases.write_plan(path, phases=planned, rows=list(rows.values()), real=real)
  assert sampling.read_plan(path) == list(rows.values())
  with open(path, encoding="utf-8") as f:
    written = json.load(f)
  assert written["phases"] == _record(planned)
  assert written["real"] == real


def test_tables_show_every_phase_and_the_real_shares():
  planned, rows = _plan([(0, EARLY), (10_000, LATE)], num_steps=20_000)
  lines = phases.format_phases(planned).split("\n")
  assert lines[0].split() == ["language", "from", "0", "from", "10,000"]
  assert lines[1].split() == ["eng_Latn", "70.0000%", "40.0000%"]
  table = sampling.format_plan(
    list(rows.values()),
    shares={"real decoder": dict(zip(CODES, (1.0, 0.5, 0.0)))},
  ).split("\n")
  assert table[0].endswith("real decoder")
  assert [line.split()[-1] for line in table[1:4]] == [
    "100.00%",
    "50.00%",
    "0.00%",
  ]
  # By rate: 0.55 * 1 + 0.3 * 0.5.
  assert table[-1].split()[-1] == "70.00%"


def test_mistakes_are_named():
  for pairs, told in (
    ([], "first must be 0"),
    ([(1, EARLY)], "first must be 0"),
    ([(0, EARLY), (0, LATE)], "later than the one before"),
    ([(0, EARLY), (10, LATE)], "starts at step 10 of a run of 10"),
  ):
    with pytest.raises(ValueError, match=told):
      _plan(pairs)


def _drawn_batches(planned, num_steps, batch_size=64):
  """Batches whose rows are the languages that a schedule draws."""
  of = schedule.Schedule(planned, batch_size=batch_size, seed=0)
  for step in range(num_steps):
    rows = [registry.index(c) for c, _ in of.draws(step, range(batch_size))]
    ids = np.repeat(np.array(rows)[:, None], 8, axis=1)
    yield {
      "decoder_language_ids": ids,
      "decoder_segment_ids": np.ones_like(ids),
    }


def test_the_watch_over_what_is_drawn_follows_the_phases():
  planned, _ = _plan([(0, EARLY), (100, LATE)], num_steps=200)
  only_first = [planned[0]]
  for told_of, languages in ((planned, []), (only_first, CODES)):
    told = []
    batches = sampling.audited(
      _drawn_batches(planned, 200),
      lambda n, of=told_of: phases.mean_rates(of, 0, n),
      observe=sampling.tokens_by_language,
      unit="tokens",
      period=10,
      warn=told.append,
    )
    assert len(list(batches)) == 200
    assert sorted(line.split()[0] for line in told) == languages
