"""One page a URL: the newest crawl of it (C4 builder, TensorFlow Datasets)."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from mlm.text import normalize

STAGE = "url_dedup"


def newest_first(pages: Iterable[dict]) -> list[dict]:
  """Pages of one URL, newest first; of equal times the later in the input."""
  return sorted(
    pages, key=lambda page: (page["timestamp"], page["id"]), reverse=True
  )


def _newest(element) -> Iterator:
  _, pages = element
  newest, *older = newest_first(pages)
  yield newest
  for page in older:
    Metrics.counter(STAGE, "older_copy").inc()
    yield beam.pvalue.TaggedOutput(
      "dropped", {**page, "drop": [STAGE, "older_copy"]}
    )


def deduplicate(pages):
  """Pages -> (the newest page of each normalised URL, the other pages)."""
  outputs = (
    pages
    | "key by url" >> beam.Map(lambda p: (normalize.normalize_url(p["url"]), p))
    | "group by url" >> beam.GroupByKey()
    | STAGE >> beam.FlatMap(_newest).with_outputs("dropped", main="kept")
  )
  return outputs.kept, outputs.dropped
