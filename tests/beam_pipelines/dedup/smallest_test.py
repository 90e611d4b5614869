import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability import fn_api_runner
from apache_beam.testing import util

from beam_pipelines.dedup import smallest


def test_a_worked_example():
  members = ["мост", "brug", "橋", "bru"]
  assert list(smallest.losers_of(members)) == [
    ("bru", "мост"),
    ("bru", "brug"),
    ("bru", "橋"),
  ]
  assert list(smallest.losers_of(["橋"])) == []


@pytest.mark.parametrize("num_parts", [1, 2, 7])
def test_every_loser_once_and_a_path_to_the_smallest(num_parts):
  rng = random.Random(0)
  members = {
    key: [f"{n:04d}" for n in rng.sample(range(10_000), size)]
    for key, size in {"ኣ": 1, "б": 2, "hot": 500, "empty tail": 9}.items()
  }
  keyed = [(key, m) for key, of_key in members.items() for m in of_key]
  rng.shuffle(keyed)

  def check(rows):
    for key, of_key in members.items():
      smaller = {loser: s for k, s, loser in rows if k == key}
      assert sorted(smaller) == sorted(of_key)[1:]
      for loser in smaller:
        while loser in smaller:
          loser = smaller[loser]
        assert loser == min(of_key)
    assert len(rows) == sum(len(m) - 1 for m in members.values())

  with beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline:
    losers = smallest.losers(
      pipeline | beam.Create(keyed), "word", num_parts=num_parts
    )
    util.assert_that(losers, check)
