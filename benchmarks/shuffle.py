"""Bytes that each grouping of a pipeline shuffles, counted on a real crawl.

    python -m benchmarks.shuffle mc4 --input=crawl.warc.gz --output=DIR …

Prints bytes for each page read, grouping by grouping, for docs/scale.md. Counts
what Beam's in-process runner groups: after combiners have combined, as encoded.
"""

import collections
import importlib
import inspect
import sys

from apache_beam.runners.portability.fn_api_runner import execution


def main(pipeline: str, arguments: list[str]) -> None:
  sizes: collections.Counter = collections.Counter()
  original = execution.GroupingBuffer

  class Counting(original):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      buffer_id = inspect.currentframe().f_back.f_locals["buffer_id"]
      self._name = buffer_id.decode().partition(":")[2]

    def append(self, elements_data):
      sizes[self._name] += len(elements_data)
      super().append(elements_data)

  execution.GroupingBuffer = Counting
  module = importlib.import_module(f"beam_pipelines.{pipeline}")
  counts = module.run(arguments)
  pages = sum(f["read"]["in"] for f in counts["funnel"].values())
  for name, size in [*sizes.most_common(), ("all", sizes.total())]:
    print(f"{size / pages:10,.0f}  {name}")


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2:])
