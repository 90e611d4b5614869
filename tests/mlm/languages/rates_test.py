"""Rates against worked examples and the properties that define them."""

import hypothesis
import pytest
from hypothesis import strategies as st

from mlm.languages import rates

AMOUNTS = st.dictionaries(
  st.sampled_from("abcdefgh"), st.floats(1, 1e9), min_size=1
)


def test_temperature_by_hand():
  num = {"a": 1000, "b": 10}
  of = rates.temperature_rates
  assert of(num, temperature=1.0)["b"] == pytest.approx(10 / 1010)
  assert of(num, temperature=1e9)["b"] == pytest.approx(0.5)
  expected = 10**0.3 / (10**0.3 + 1000**0.3)  # mT5: p ∝ n^0.3
  assert of(num, temperature=1 / 0.3)["b"] == pytest.approx(expected)


def test_unimax_by_hand():
  """Smallest first: 10 is full at 2 epochs, the rest share what is left."""
  amounts = rates.unimax_amounts(
    {"a": 10, "b": 100, "c": 1000}, budget=300, max_epochs=2
  )
  assert amounts == {"a": 20, "b": 140, "c": 140}


def _unimax_by_the_paper(num, budget, max_epochs):
  left, amounts = budget, {}
  for k, code in enumerate(sorted(num, key=num.get)):
    amounts[code] = min(left / (len(num) - k), max_epochs * num[code])
    left -= amounts[code]
  return amounts


@hypothesis.given(AMOUNTS, st.floats(1, 1e10), st.floats(0.1, 20))
def test_unimax_is_the_algorithm_of_the_paper(num, budget, max_epochs):
  expected = _unimax_by_the_paper(num, budget, max_epochs)
  found = rates.unimax_amounts(num, budget=budget, max_epochs=max_epochs)
  assert found == pytest.approx(expected, rel=1e-9, abs=1e-6 * budget)


@hypothesis.given(AMOUNTS, st.floats(1, 1e10), st.floats(1, 10))
def test_caps_hold_and_what_is_free_keeps_its_ratios(num, budget, temperature):
  wanted = rates.temperature_rates(num, temperature=temperature)
  capacity = {code: 3 * n for code, n in num.items()}
  amounts = rates.capped_amounts(wanted, capacity, budget=budget)
  assert all(amounts[c] <= capacity[c] * (1 + 1e-12) for c in num)
  total = sum(amounts.values())
  assert total == pytest.approx(min(budget, sum(capacity.values())))
  free = [c for c in num if amounts[c] < capacity[c] * (1 - 1e-9)]
  ratios = [amounts[c] / wanted[c] for c in free]
  assert ratios == pytest.approx([ratios[0]] * len(free) if free else [])


@pytest.mark.parametrize(
  "rule, expected",
  [
    ("proportional", (0.125, 0.125, 0.1875, 0.5625)),
    (1.0, (0.125, 0.125, 0.1875, 0.5625)),
    ("uniform", (0.125, 0.125, 0.375, 0.375)),
    (2.0, (0.125, 0.125, 0.75 / (1 + 3**0.5), 0.75 / (1 + 3**-0.5))),
  ],
)
def test_shares_go_over_sources_and_then_over_languages(rule, expected):
  found = rates.nested_rates(
    {"human": 0.25, "translated": 0.75},
    {"human": {"a": 1, "b": 1}, "translated": {"b": 1, "c": 3}},
    rule=rule,
  )
  leaves = (("human", "a"), ("human", "b"), ("translated", "b"))
  leaves = (*leaves, ("translated", "c"))
  assert found == pytest.approx(dict(zip(leaves, expected)))


@pytest.mark.parametrize(
  "call, told",
  [
    (lambda: rates.temperature_rates({}, temperature=1.0), "no language"),
    (lambda: rates.temperature_rates({"a": 0}, temperature=1.0), "'a': 0"),
    (lambda: rates.temperature_rates({"a": 1}, temperature=0), "above 0"),
    (lambda: rates.check_shares({"a": 0.5, "b": 0.6}), "sum to 1.1"),
    (lambda: rates.check_shares({"a": 1.5, "b": -0.5}), "'b': -0.5"),
    (
      lambda: rates.unimax_amounts({"a": 1}, budget=0, max_epochs=1),
      "budget of 0",
    ),
    (
      lambda: rates.nested_rates({"x": 1.0}, {"y": {"a": 1}}, rule=1.0),
      "same sources",
    ),
    (
      lambda: rates.nested_rates({"x": 1.0}, {"x": {"a": 1}}, rule="even"),
      "rule 'even'",
    ),
    (
      lambda: rates.nested_rates({"x": 1.0}, {"x": {"a": 0}}, rule="uniform"),
      "'a': 0",
    ),
  ],
)
def test_mistakes_are_named(call, told):
  with pytest.raises(ValueError, match=told):
    call()
