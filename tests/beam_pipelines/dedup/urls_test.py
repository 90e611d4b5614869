import apache_beam as beam
from apache_beam.runners.portability import fn_api_runner
from apache_beam.testing import util

from beam_pipelines.dedup import urls


def page(number, url, timestamp):
  return {"id": str(number), "url": url, "timestamp": timestamp, "drop": None}


def test_the_newest_page_of_each_address_stays():
  may, june = "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z"
  same = [
    page(0, "http://a.example/мост", may),
    page(1, "https://www.a.example/мост/", june),
    page(2, "http://a.example/мост?utm_source=x", may),
    page(3, "https://a.example/мост?ref=橋", may),
  ]
  others = [
    page(4, "http://a.example/Мост", may),  # case counts
    page(5, "http://a.example/мост?page=2", may),  # so do other queries
    page(6, "http://b.example/мост", may),
    page(7, "http://www2.a.example/мост", may),
  ]
  with beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline:
    pages = pipeline | beam.Create(same + others)
    kept, dropped = urls.deduplicate(pages)
    kept = kept | "kept ids" >> beam.Map(lambda p: p["id"])
    dropped = dropped | beam.Map(lambda p: (p["id"], *p["drop"]))
    util.assert_that(kept, util.equal_to(list("14567")), label="kept")
    older = [(i, "url_dedup", "older_copy") for i in "023"]
    util.assert_that(dropped, util.equal_to(older), label="dropped")


def test_of_two_crawls_at_one_time_the_later_in_the_input_stays():
  pages = [page(n, "http://a.example/", "2024-05-01") for n in (3, 9, 5)]
  assert urls.newest(pages)["id"] == "9"
