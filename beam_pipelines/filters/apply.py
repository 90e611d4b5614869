"""A filter as a step of a pipeline."""

from collections.abc import Callable

import apache_beam as beam
from apache_beam.metrics import Metrics


class _Filter(beam.DoFn):
  def __init__(self, stage, reason_of):
    self._stage = stage
    self._reason_of = reason_of

  def process(self, page):
    reason = self._reason_of(page)
    if reason is None:
      yield page
    else:
      Metrics.counter(self._stage, reason).inc()
      yield beam.pvalue.TaggedOutput(
        "dropped", {**page, "drop": [self._stage, reason]}
      )


def apply(pages, stage: str, reason_of: Callable[[dict], str | None]):
  """Splits pages into (kept, dropped), the dropped with stage and reason."""
  outputs = pages | stage >> beam.ParDo(_Filter(stage, reason_of)).with_outputs(
    "dropped", main="kept"
  )
  return outputs.kept, outputs.dropped
