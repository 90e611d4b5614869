"""Verifiable rewards against hand-worked examples."""

import numpy as np
import pytest

from mlm.alignment import rewards


def _identify(text):
  if "ሰላም" in text:
    return "amh_Ethi", 0.9
  if "สวัสดี" in text:
    return "tha_Thai", 0.8
  return None, 0.3


@pytest.mark.parametrize(
  "text, language, expected",
  [
    ("ሰላም ዓለም", "amh_Ethi", 0.9),
    ("สวัสดีชาวโลก", "tha_Thai", 0.8),
    ("สวัสดีชาวโลก", "lao_Laoo", 0.0),
    ("hello", "eng_Latn", 0.0),
  ],
)
def test_right_language_is_the_probability_of_a_first_choice(
  text, language, expected
):
  assert rewards.right_language(text, language, _identify) == expected


def test_no_repetition_counts_distinct_trigrams():
  assert rewards.no_repetition([1, 2, 3, 4]) == 1.0
  # (7,7,7) four times: one distinct of four.
  assert rewards.no_repetition([7] * 6) == 0.25
  # 123, 231, 312, 123, 231: three distinct of five.
  assert rewards.no_repetition([1, 2, 3, 1, 2, 3, 1]) == 3 / 5
  assert rewards.no_repetition([5]) == 1.0


def test_an_empty_response_earns_nothing():
  parts = rewards.verifiable_parts(
    text=" \n",
    tokens=[],
    ended=True,
    language="amh_Ethi",
    identify=_identify,
  )
  assert parts == {"right_language": 0, "no_repetition": 0, "ends": 0}


def test_parts_of_a_good_response():
  parts = rewards.verifiable_parts(
    text="ሰላም",
    tokens=[5, 6, 7, 8],
    ended=True,
    language="amh_Ethi",
    identify=_identify,
  )
  assert parts == {"right_language": 0.9, "no_repetition": 1, "ends": 1}


def test_weighted_sum_needs_a_weight_for_each_part():
  parts = {"a": np.array([1.0, 0.0]), "b": np.array([0.5, 0.5])}
  total = rewards.weighted_sum(parts, {"a": 2.0, "b": 1.0})
  np.testing.assert_allclose(total, [2.5, 0.5])
  with pytest.raises(ValueError, match="same names"):
    rewards.weighted_sum(parts, {"a": 2.0, "c": 1.0})
