"""Published sizes of the hundred languages, and what rules make of them."""

import math

import pytest

from mlm.languages import registry, samplers, sets
from mlm.planning import mixture


def test_published_counts_cover_the_hundred_and_sum_to_mc4():
  """6.3 T tokens in mC4's 107 configurations, as its paper says."""
  counts = mixture.published()
  assert tuple(counts) == registry.codes()
  total = sum(one.mc4_tokens or 0 for one in counts.values())
  assert total == pytest.approx(6.3e12, rel=0.01)
  assert all(counts[code].mc4_tokens for code in sets.HUNDRED)
  without = [c for c in sets.HUNDRED if counts[c].fineweb2_words is None]
  assert without == ["eng_Latn"]
  assert counts["swh_Latn"] == mixture.Published(
    1_000_000_000, 569_542_024, 1_206_300, 3_311_669_706
  )


def test_a_language_without_a_count_is_refused():
  with pytest.raises(ValueError, match="bos_Latn"):
    mixture.token_counts(["eng_Latn", "bos_Latn"])


def test_temperature_without_a_cap_is_the_papers_formula():
  """p of Swahili (1 G tokens) over English (2,733 G) is (1 / 2733)^0.3."""
  sampler = samplers.by_temperature(
    temperature=10 / 3, unit="tokens", max_epochs=None
  )
  rates = {row.language: row.rate for row in mixture.plan(sampler, 1e12)}
  assert math.fsum(rates.values()) == pytest.approx(1)
  ratio = rates["swh_Latn"] / rates["eng_Latn"]
  assert ratio == pytest.approx(2733**-0.3)


@pytest.mark.parametrize("num_tokens", [1e12, 3.95e12, 15e12])
def test_unimax_gives_equal_shares_below_its_cap(num_tokens):
  rows = mixture.plan(samplers.by_unimax(max_epochs=4), num_tokens)
  largest = max(row.rate for row in rows)
  for row in rows:
    capped = row.expected_epochs == pytest.approx(4)
    assert capped or row.rate == pytest.approx(largest)
    assert row.expected_epochs <= 4 * (1 + 1e-9)
  of = mixture.spread(rows)
  assert of.most_epochs == pytest.approx(4)
  assert of.english_share == pytest.approx(largest)
  assert 1 < of.effective_languages < 100


def test_more_tokens_than_four_epochs_have_are_refused():
  with pytest.raises(ValueError, match="shortfall"):
    mixture.plan(samplers.by_unimax(max_epochs=4), 30e12)


def test_an_equal_mixture_has_as_many_effective_languages_as_it_has():
  sampler = samplers.by_shares(
    shares=dict.fromkeys(sets.HUNDRED, 0.01), max_epochs=None
  )
  of = mixture.spread(mixture.plan(sampler, 1e9))
  assert of.effective_languages == pytest.approx(100)
  assert of.repeated_share == 0  # every language has 10 M tokens
