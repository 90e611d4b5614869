import collections

import pytest

from mlm.alignment import preference_mixtures as mixtures


@pytest.mark.parametrize(
  "mixture, languages, rows, of_each",
  [
    ("EN-1", 1, 50_000, {50_000}),
    ("ML-5", 5, 50_000, {10_000}),
    ("ML-23", 23, 50_000, {2_173, 2_174}),
    ("ML-23*", 23, 230_000, {10_000}),
  ],
)
def test_mixtures_are_those_of_the_paper(mixture, languages, rows, of_each):
  quotas = mixtures.quotas(mixture, None)
  assert len(quotas) == languages
  assert sum(quotas.values()) == rows
  assert set(quotas.values()) == of_each
  assert "eng_Latn" in quotas


def test_scaled_mixture_keeps_shares_and_the_exact_total():
  assert mixtures.quotas(
    {"eng_Latn": 50, "hin_Deva": 30, "zho_Hani": 20}, 7
  ) == {
    "eng_Latn": 4,  # of 3.5, 2.1 and 1.4 the largest remainder
    "hin_Deva": 2,
    "zho_Hani": 1,
  }
  scaled = mixtures.quotas("ML-23", 100)
  assert sum(scaled.values()) == 100
  assert set(scaled.values()) == {4, 5}
  with pytest.raises(ValueError, match="at least 23"):
    mixtures.quotas("ML-23", 22)


def _pairs(number):
  codes = (
    "eng_Latn",
    "tur_Latn",
    "vie_Latn",
    "deu_Latn",
    "por_Latn",
    "ell_Grek",
  )
  return [
    {"id": f"{i}", "language": codes[i % len(codes)]} for i in range(number)
  ]


def test_draw_has_the_quotas_whatever_the_order_and_nests():
  pairs = _pairs(600)
  quotas = mixtures.quotas("ML-5", 100)
  drawn = mixtures.draw(pairs, quotas, seed=3)
  assert collections.Counter(p["language"] for p in drawn) == quotas
  again = mixtures.draw(pairs[::-1], quotas, seed=3)
  assert {p["id"] for p in again} == {p["id"] for p in drawn}
  more = mixtures.draw(pairs, mixtures.quotas("ML-5", 250), seed=3)
  assert {p["id"] for p in drawn} < {p["id"] for p in more}
  other = mixtures.draw(pairs, quotas, seed=4)
  assert {p["id"] for p in other} != {p["id"] for p in drawn}


def test_too_few_pairs_are_listed_by_language():
  with pytest.raises(ValueError, match="deu_Latn 10 of 12.*scale the mixture"):
    mixtures.draw(_pairs(60), {"deu_Latn": 12, "eng_Latn": 10}, seed=0)


def test_unknown_names_and_codes_are_errors():
  with pytest.raises(ValueError, match="'ML-7' is none of EN-1, ML-5"):
    mixtures.quotas("ML-7", None)
  with pytest.raises(ValueError, match="swa_Latn"):
    mixtures.quotas({"swa_Latn": 3}, None)
