"""The smallest member of every key, however many members a key has.

A line may stand on a billion pages, a spam page may fill a bucket. The members
of a key are compared in parts first, each of them a group of its own, and the
winners of the parts after that; no group's members are held in memory, they are
read twice. The outcome does not depend on the number of parts.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam


def losers_of(members: Iterable) -> Iterator[tuple]:
  """(smallest, other) for every other member, not equal to the smallest."""
  smallest = min(members)
  for member in members:
    if member != smallest:
      yield smallest, member


def _part_of(element, num_parts):
  key, member = element
  return (key, zlib.crc32(repr(member).encode()) % num_parts), member


def _compare_part(element):
  (key, _), members = element
  for smallest, loser in losers_of(members):
    yield beam.pvalue.TaggedOutput("losers", (key, smallest, loser))
  yield key, min(members)


def _compare(element):
  key, members = element
  for smallest, loser in losers_of(members):
    yield key, smallest, loser


def losers(keyed, label: str, *, num_parts: int):
  """Which members are not the smallest of their key.

  Args:
    keyed: PCollection of (key, member); members of a key can be ordered.
    label: unique in the pipeline.
    num_parts: a key's members are spread over; 1 for small inputs.

  Returns:
    PCollection of (key, smaller, loser), every loser of a key once; following
    "smaller" from a loser leads to the key's smallest member.
  """
  if num_parts == 1:
    return (
      keyed
      | f"group by {label}" >> beam.GroupByKey()
      | f"compare {label}" >> beam.FlatMap(_compare)
    )
  parts = (
    keyed
    | f"parts of {label}" >> beam.Map(_part_of, num_parts)
    | f"group by part of {label}" >> beam.GroupByKey()
    | f"compare parts of {label}"
    >> (
      beam.FlatMap(_compare_part)
      .with_output_types(tuple[Any, Any])
      .with_outputs("losers", main="winners")
    )
  )
  final = (
    parts.winners
    | f"group by {label}" >> beam.GroupByKey()
    | f"compare {label}" >> beam.FlatMap(_compare)
  )
  return (parts.losers, final) | f"losers of {label}" >> beam.Flatten()
