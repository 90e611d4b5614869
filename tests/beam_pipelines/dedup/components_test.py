"""Stars against scipy's connected components, on awkward and random graphs."""

import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability import fn_api_runner
from scipy.sparse import csgraph, csr_array

from beam_pipelines import stages as stages_lib
from beam_pipelines.dedup import components


def _graphs():
  rng = random.Random(0)
  yield "none", []
  yield "edge", [(0, 1)]
  yield "path", [(i, i + 1) for i in range(40)]
  shuffled = rng.sample(range(60), 60)
  yield "shuffled path", list(zip(shuffled, shuffled[1:]))
  yield "star", [(7, i) for i in range(20) if i != 7]
  yield "cycle", [(i, (i + 1) % 13) for i in range(13)]
  yield (
    "cliques",
    [(a, b) for c in (0, 10) for a in range(c, c + 6) for b in range(c, a)],
  )
  yield "random", [(rng.randrange(80), rng.randrange(80)) for _ in range(60)]


@pytest.mark.parametrize("name, edges", _graphs(), ids=lambda x: str(x)[:12])
def test_stars_are_the_components(name, edges, tmp_path):
  edges = sorted({(min(e), max(e)) for e in edges if e[0] != e[1]})
  stages = stages_lib.Stages(
    str(tmp_path), lambda: beam.Pipeline(fn_api_runner.FnApiRunner())
  )
  named = [(f"{a:03d}", f"{b:03d}") for a, b in edges]
  stars = stages.rows(
    components.solve(stages, "pairs", lambda p: p | beam.Create(named))
  )

  size = 100
  rows, columns = zip(*edges) if edges else ((), ())
  matrix = csr_array(([1] * len(edges), (rows, columns)), (size, size))
  _, labels = csgraph.connected_components(matrix, directed=False)
  smallest = {}
  for node, label in enumerate(labels):
    smallest.setdefault(label, node)
  expected = sorted(
    [f"{smallest[label]:03d}", f"{node:03d}"]
    for node, label in enumerate(labels)
    if node != smallest[label]
  )
  assert stars == expected
