"""Plans by every method, their errors, and the watch over what is drawn."""

import numpy as np
import pytest

from mlm.data import sampling
from mlm.languages import registry, samplers

COUNTS = {
  code: {
    "train": {
      "documents": documents,
      "tokens": tokens,
      "characters": 4 * tokens,
      "bytes": 8 * tokens,
    }
  }
  for code, documents, tokens in (
    ("eng_Latn", 900, 100_000),
    ("rus_Cyrl", 90, 10_000),
    ("tha_Thai", 10, 1_000),
  )
}
CODES = list(COUNTS)


def _plan(sampler, num_tokens, codes=CODES):
  rows = sampling.mixture_plan(
    COUNTS, sampler=sampler, num_tokens=num_tokens, languages=codes
  )
  return {row.language: row for row in rows}


def test_temperature_over_each_unit():
  by = {
    unit: _plan(
      samplers.by_temperature(temperature=1.0, unit=unit, max_epochs=None), 1000
    )
    for unit in samplers.UNITS
  }
  assert by["documents"]["tha_Thai"].rate == pytest.approx(0.01)
  for unit in ("tokens", "characters", "bytes"):
    assert by[unit]["tha_Thai"].rate == pytest.approx(1 / 111)


def test_caps_hold_and_the_rest_goes_to_the_others():
  plan = _plan(
    samplers.by_temperature(temperature=1e9, unit="tokens", max_epochs=2),
    60_000,
  )
  assert plan["tha_Thai"].expected_epochs == pytest.approx(2)
  assert plan["rus_Cyrl"].expected_epochs == pytest.approx(2)
  assert plan["eng_Latn"].expected_tokens == pytest.approx(38_000)
  assert sum(row.rate for row in plan.values()) == pytest.approx(1)


def test_unimax_and_shares():
  plan = _plan(samplers.by_unimax(max_epochs=1), 9_000)
  assert [plan[c].expected_tokens for c in CODES] == pytest.approx(
    [4_000, 4_000, 1_000]
  )
  shares = dict(zip(CODES, (0.5, 0.3, 0.2)))
  plan = _plan(samplers.by_shares(shares=shares, max_epochs=None), 9_000)
  assert {c: row.rate for c, row in plan.items()} == pytest.approx(shares)


@pytest.mark.parametrize(
  "make, told",
  [
    (
      lambda: _plan(samplers.by_unimax(max_epochs=1), 200_000),
      "shortfall of 89,000",
    ),
    (
      lambda: _plan(samplers.by_unimax(max_epochs=1), 10, [*CODES, "zul_Latn"]),
      r"without train tokens: \['zul_Latn'\]",
    ),
    (lambda: _plan(samplers.by_unimax(max_epochs=1), 0), "num_tokens 0"),
    (lambda: samplers.by_unimax(max_epochs=-1), "max_epochs -1"),
    (
      lambda: samplers.by_temperature(
        temperature=1.0, unit="words", max_epochs=None
      ),
      "unknown unit 'words'",
    ),
    (
      lambda: samplers.by_shares(
        shares={"eng_Latn": 1.2, "rus_Cyrl": -0.2}, max_epochs=None
      ),
      "'rus_Cyrl': -0.2",
    ),
    (
      lambda: _plan(
        samplers.by_shares(shares={"eng_Latn": 1.0}, max_epochs=None), 10
      ),
      "give a share to every language",
    ),
  ],
)
def test_mistakes_are_named_before_training(make, told):
  with pytest.raises(ValueError, match=told):
    make()


def _batches(shares, number):
  rng = np.random.default_rng(0)
  index = [registry.index(code) for code in shares]
  for _ in range(number):
    rows = rng.choice(index, size=(32, 1), p=list(shares.values()))
    yield {
      "decoder_language_ids": np.repeat(rows, 16, axis=1),
      "decoder_segment_ids": np.ones((32, 16), np.int32),
    }


def test_a_drift_is_told_once_and_chance_is_not():
  shares = dict(zip(CODES, (0.7, 0.2, 0.1)))
  for seen, expected in (
    (shares, []),
    (dict(zip(CODES, (0.6, 0.2, 0.2))), ["eng_Latn", "tha_Thai"]),
  ):
    told = []
    batches = sampling.audited(
      _batches(seen, 200),
      lambda _: shares,
      observe=sampling.tokens_by_language,
      unit="tokens",
      period=50,
      warn=told.append,
    )
    assert len(list(batches)) == 200
    assert sorted(line.split()[0] for line in told) == expected
  assert "planned were 10.000%" in " ".join(told)
