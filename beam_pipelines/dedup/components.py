"""Connected components of a graph too large for one machine.

Large-star and small-star turns, each one grouping by node, until the edges are
stars around the smallest node of each component. No list of neighbours is held
in memory: they are read twice.

Source: Kiveris et al. 2014, "Connected Components in MapReduce and Beyond".
"""

from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam


def large_star(node: str, neighbours: Iterable[str]) -> Iterator[tuple]:
  """Links the larger neighbours of a node to the smallest of all and itself."""
  smallest = min(node, min(neighbours))
  for other in neighbours:
    if other > node:
      yield smallest, other


def small_star(node: str, smaller: Iterable[str]) -> Iterator[tuple]:
  """Links the smaller neighbours of a node, and itself, to the smallest."""
  smallest = min(smaller)
  yield smallest, node
  for other in smaller:
    if other != smallest:
      yield smallest, other


def _both_ways(edge):
  a, b = edge
  yield a, b
  yield b, a


def turn(edges, label: str):
  """One large-star and one small-star turn.

  Args:
    edges: PCollection of (smaller, larger) node, distinct.
    label: of this turn, unique in the pipeline.

  Returns:
    PCollection of the new edges, distinct, (smaller, larger).
  """
  return (
    edges
    | f"{label} both ways" >> beam.FlatMap(_both_ways)
    | f"{label} neighbours" >> beam.GroupByKey()
    | f"{label} large star" >> beam.FlatMapTuple(large_star)
    | f"{label} distinct" >> beam.Distinct()
    | f"{label} to the larger" >> beam.Map(lambda edge: (edge[1], edge[0]))
    | f"{label} smaller ones" >> beam.GroupByKey()
    | f"{label} small star" >> beam.FlatMapTuple(small_star)
    | f"{label} distinct again" >> beam.Distinct()
  )


def solve(stages, name: str, build: Callable, max_turns: int = 50) -> str:
  """Turns edges into stars, a stage a turn.

  Args:
    stages: `stages.Stages`.
    name: of the edges.
    build: pipeline -> PCollection of edges, (smaller, larger), distinct.
    max_turns: more than any graph needs: turns grow with the square of the
      logarithm of the nodes.

  Returns:
    Name of the stage that holds the stars: (smallest node, other) pairs.

  Raises:
    RuntimeError: if max_turns were not enough.
  """
  for number in range(max_turns):
    current, question = (
      f"{name}-{number:02d}{what}" for what in ("", "-are-stars")
    )

    def build_both(pipeline, build=build, question=question):
      edges = build(pipeline)
      stages.write(question, are_stars(edges))
      return edges

    stages.run(current, build_both)
    if stages.rows(question) in ([], [True]):
      return current

    def build(pipeline, edges=current):
      return turn(stages.read(pipeline, edges) | beam.Map(tuple), "turn")

  raise RuntimeError(f"no stars after {max_turns} turns; report this graph")


def are_stars(edges):
  """PCollection of one bool: no node is both a centre and a leaf.

  Every edge of stars leads from a centre, the smaller node, to a leaf that has
  no other edge.
  """

  def roles(edge):
    yield edge[0], (1, 0)
    yield edge[1], (0, 1)

  def is_leaf_or_centre(element):
    centre, leaf = element[1]
    return leaf == 0 or (leaf == 1 and centre == 0)

  return (
    edges
    | "roles" >> beam.FlatMap(roles)
    | "count roles"
    >> beam.CombinePerKey(beam.combiners.TupleCombineFn(sum, sum))
    | "a star's" >> beam.Map(is_leaf_or_centre)
    | "all of them" >> beam.CombineGlobally(all)
  )
