import gzip

import pytest

from beam_pipelines import commoncrawl, corpus


@pytest.fixture
def mirror(tmp_path):
  """Two crawls of three WET files each, in the bucket's layout."""
  for crawl in ("CC-MAIN-2024-10", "CC-MAIN-2024-18"):
    names = []
    for n in range(3):
      name = f"crawl-data/{crawl}/segments/17.{n}/wet/{crawl}-{n}.warc.wet.gz"
      path = tmp_path / name
      path.parent.mkdir(parents=True)
      path.write_bytes(b"x" * (n + 1))
      names.append(name)
    (tmp_path / f"crawl-data/{crawl}/wet.paths.gz").write_bytes(
      gzip.compress("".join(f"{n}\n" for n in names).encode())
    )
    # Listed nowhere: not read.
    (path.parent / "other.warc.wet.gz").write_bytes(b"y")
  return tmp_path


def find(mirror, *crawls, kind="wet", partial=False):
  return commoncrawl.find(crawls, kind, str(mirror), partial=partial)


def test_the_files_of_several_crawls(mirror):
  found = find(mirror, "CC-MAIN-2024-18", "CC-MAIN-2024-10")
  assert [size for _, size in found] == [1, 2, 3, 1, 2, 3]
  assert found == sorted(found)
  assert all("CC-MAIN-2024-1" in path for path, _ in found)
  assert find(mirror, "CC-MAIN-2024-10") == found[:3]


def test_mistakes(mirror):
  for crawls, kind, told in (
    (["CC-MAIN-2024"], "wet", "CC-MAIN-YYYY-WW"),
    (["CC-MAIN-2023-50"], "wet", "wet.paths.gz is missing"),
    (["CC-MAIN-2024-10"], "warc", "warc.paths.gz is missing"),
  ):
    with pytest.raises(corpus.InputError, match=told):
      find(mirror, *crawls, kind=kind)


def test_a_partial_mirror_must_be_meant(mirror, capsys):
  files = sorted(mirror.rglob("CC-MAIN-2024-10-*"))
  files[1].unlink()
  with pytest.raises(corpus.InputError, match="1 of 3 wet files"):
    find(mirror, "CC-MAIN-2024-10")
  found = find(mirror, "CC-MAIN-2024-10", partial=True)
  assert [path for path, _ in found] == [str(files[0]), str(files[2])]
  assert "2 of 3 wet files are there" in capsys.readouterr().out
  for path in files[::2]:
    path.unlink()
  with pytest.raises(corpus.InputError, match="3 of 3"):
    find(mirror, "CC-MAIN-2024-10", partial=True)
