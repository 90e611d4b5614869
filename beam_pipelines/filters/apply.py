"""A filter as a step of a pipeline."""

from collections.abc import Callable, Iterable

import apache_beam as beam
from apache_beam.metrics import Metrics


class _Filter(beam.DoFn):
  def __init__(self, drop_of):
    self._drop_of = drop_of

  def process(self, page):
    drop = self._drop_of(page)
    if drop is None:
      yield page
    else:
      Metrics.counter(*drop).inc()
      yield beam.pvalue.TaggedOutput("dropped", {**page, "drop": list(drop)})


def apply(pages, stage: str, reason_of: Callable[[dict], str | None]):
  """Splits pages into (kept, dropped), the dropped with stage and reason."""

  def drop_of(page):
    reason = reason_of(page)
    return None if reason is None else (stage, reason)

  return apply_several(pages, stage, drop_of)


def apply_several(
  pages, label: str, drop_of: Callable[[dict], tuple[str, str] | None]
):
  """As `apply`, for rules of several stages that share work on a page."""
  outputs = pages | label >> (
    beam.ParDo(_Filter(drop_of))
    .with_output_types(dict)
    .with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped


def apply_all(pages, steps: Iterable[Callable]):
  """Steps pages -> (kept, dropped), one after the other: (kept, all dropped)."""
  all_dropped = []
  for step in steps:
    pages, dropped = step(pages)
    all_dropped.append(dropped)
  return pages, all_dropped | "dropped" >> beam.Flatten()
