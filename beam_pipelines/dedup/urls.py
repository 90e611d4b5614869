"""One page a URL: the newest crawl of it (C4 builder, TensorFlow Datasets)."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from mlm.text import normalize

STAGE = "url_dedup"


def newest(pages: Iterable[dict]) -> dict:
  """The newest of the pages of one URL; of equal times the later in the input.

  Holds one page at a time, however often a URL was crawled.
  """
  return max(pages, key=lambda page: (page["timestamp"], page["id"]))


def _newest(element) -> Iterator:
  _, pages = element
  kept = newest(pages)
  yield kept
  for page in pages:
    if page["id"] != kept["id"]:
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
