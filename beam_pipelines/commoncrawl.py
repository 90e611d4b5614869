"""Common Crawl's lists of files, from its bucket or a mirror of it.

A crawl (CC-MAIN-2024-10) lists its files in `crawl-data/<crawl>/warc.paths.gz`
and `wet.paths.gz`, a path from the root a line.
"""

import re
from collections.abc import Sequence

from beam_pipelines import corpus

ROOT = "s3://commoncrawl"
KINDS = ("warc", "wet")
_NAME = re.compile(r"CC-MAIN-\d{4}-\d{2}")


def find(
  crawls: Sequence[str], kind: str, root: str, *, partial: bool
) -> list[tuple[str, int]]:
  """(path, bytes) of all files of some crawls, sorted.

  Args:
    crawls: names.
    kind: of files, one of KINDS.
    root: the bucket or a directory with the same paths below it.
    partial: whether the root may lack files that the lists name.

  Raises:
    InputError: if a name, a list or (unless partial) a listed file is wrong or
      missing.
  """
  found = []
  for crawl in crawls:
    if not _NAME.fullmatch(crawl):
      raise corpus.InputError(
        f"--crawl {crawl!r} is no name of a crawl; give CC-MAIN-YYYY-WW"
      )
    directory = corpus.join(root, "crawl-data", crawl)
    list_path = corpus.join(directory, f"{kind}.paths.gz")
    if not corpus.exists(list_path):
      raise corpus.InputError(
        f"{list_path} is missing; check --crawl and --crawl_root"
      )
    listed = [corpus.join(root, p) for p in corpus.read_lines(list_path)]
    # One listing of the bucket, not a request for each of 90,000 files.
    sizes = dict(corpus.match(f"{directory}/segments/*/{kind}/*"))
    missing = [path for path in listed if path not in sizes]
    if missing and (not partial or len(missing) == len(listed)):
      raise corpus.InputError(
        f"{len(missing):,} of {len(listed):,} {kind} files of {crawl} are not "
        f"below {root}, {missing[0]} first; complete the mirror, or give "
        "--partial_crawl for a mirror with a part of the files"
      )
    if missing:
      print(
        f"{crawl}: {len(listed) - len(missing):,} of {len(listed):,} {kind} "
        "files are there; the others are left out",
        flush=True,
      )
    found += [(path, sizes[path]) for path in listed if path in sizes]
  return sorted(set(found))
