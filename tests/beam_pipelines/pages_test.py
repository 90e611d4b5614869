import os
import random

from beam_pipelines import pages, read


def staged(path, part_bytes, directory):
  """Pages of a file by way of staged parts."""
  dofn = pages.StagePages(str(directory), second_opinion=False)
  dofn.setup()
  found = []
  for part in pages.parts_of(0, str(path), path.stat().st_size, part_bytes):
    (staged_path,) = dofn.process(part)
    found += pages.read_staged(staged_path)
  return found


def write(path, data):
  path.write_bytes(data)
  return path


def test_every_record_gives_one_page_or_one_reason(crawl, tmp_path):
  codes = list(crawl.SENTENCES)
  records = [
    crawl.response(
      f"http://{code}.example/", crawl.html_page(crawl.paragraphs(code, 0))
    )
    for code in codes
  ]
  records += [
    crawl.response("http://x.example/", "no", status="500 Oh"),
    crawl.response("http://y.example/", "<html><body></body></html>"),
    crawl.response("http://z.example/", "<p>12 345</p>"),
  ]
  path = write(tmp_path / "c.warc.gz", crawl.archive(records))
  found = staged(path, 1 << 20, tmp_path / "stages")
  *good, failed, empty, digits = found
  assert [(p["language"], p["drop"]) for p in good] == [
    (code, None) for code in codes
  ]
  assert [p["text"].split("\n") for p in good] == [
    crawl.paragraphs(code, 0) for code in codes
  ]
  assert failed["drop"] == ["read", "http_status"]
  assert empty["drop"] == ["extract", "empty"]
  assert (digits["drop"], digits["language"]) == (None, None)
  assert len({p["id"] for p in found}) == len(records)


def test_parts_together_are_the_file(crawl, tmp_path):
  records = [
    crawl.response(f"http://{n}.example/", crawl.html_page([text] * 3))
    for n, text in enumerate(crawl.SENTENCES.values())
  ]
  path = write(tmp_path / "c.warc.gz", crawl.archive(records))
  whole = staged(path, 1 << 20, tmp_path / "whole")
  assert staged(path, 700, tmp_path / "parts") == whole
  assert [p["id"] for p in whole] == sorted(p["id"] for p in whole)
  assert len(list((tmp_path / "parts").iterdir())) > 3


def test_an_empty_file_is_a_part_without_pages(tmp_path):
  path = write(tmp_path / "c.warc.gz", b"")
  assert staged(path, 100, tmp_path / "stages") == []


def test_finished_parts_are_not_read_again(crawl, tmp_path):
  record = crawl.response("http://a.example/", "<p>one</p>")
  path = write(tmp_path / "c.warc.gz", crawl.archive([record]))
  first = staged(path, 1 << 20, tmp_path / "stages")
  write(path, b"\0" * path.stat().st_size)
  assert staged(path, 1 << 20, tmp_path / "stages") == first


def test_flipped_bits_cost_at_most_the_records_they_hit(crawl, tmp_path):
  """Twenty damaged crawls: nothing raises, all other pages are unchanged."""
  members = [
    crawl.archive(
      [crawl.response(f"http://{n}.example/", crawl.html_page([text], "utf-8"))]
    )
    for n, text in enumerate(crawl.SENTENCES.values())
  ]
  data = b"".join(members)
  ends = [sum(map(len, members[: n + 1])) for n in range(len(members))]
  path = write(tmp_path / "clean", data)
  clean = staged(path, 1 << 20, tmp_path / "stages")
  rng = random.Random(7)
  for trial in range(20):
    damaged = bytearray(data)
    hit = set()
    for _ in range(3):
      position = rng.randrange(len(data))
      damaged[position] ^= 1 << rng.randrange(8)
      hit.add(next(n for n, end in enumerate(ends) if position < end))
    path = write(tmp_path / str(trial), bytes(damaged))
    found = staged(path, 1 << 20, tmp_path / f"stages{trial}")
    survivors = [p for p in found if not p["drop"]]
    for n, page in enumerate(clean):
      assert n in hit or page in survivors
    assert all(p in clean for p in survivors)
    # Two damaged records side by side are one gap in the file.
    assert len(clean) - len(hit) + 1 <= len(found) <= len(clean)


def test_pages_of_raw_bytes_never_raise():
  rng = random.Random(3)
  for _ in range(50):
    body = b"<html><p>" + rng.randbytes(300) + b"&#xD800;&#0;</p>"
    for charset in ("", "utf-16", "gb18030", "iso-2022-jp", "utf-8"):
      record = read.Record("0", "u", "t", body, charset, False, "")
      text = pages.page_of_record(record, "0", second_opinion=False)["text"]
      text.encode()  # no lone surrogates


def test_nothing_is_staged_under_its_name_before_it_is_complete(
  crawl, tmp_path, monkeypatch
):
  record = crawl.response("http://a.example/", "<p>one</p>")
  path = write(tmp_path / "c.warc.gz", crawl.archive([record] * 3))

  def fail(record, page_id, **options):
    raise KeyboardInterrupt

  with monkeypatch.context() as m:
    m.setattr(pages, "page_of_record", fail)
    try:
      staged(path, 1 << 20, tmp_path / "stages")
    except KeyboardInterrupt:
      pass
  names = os.listdir(tmp_path / "stages")
  assert names and all(name.endswith(".partial") for name in names)
  assert len(staged(path, 1 << 20, tmp_path / "stages")) == 3
