"""Writing shards, decisions and samples; files are equal for equal input.

Files are written under their last names: a corpus without counts.json is
unfinished, and the next run writes the same files again.
"""

import collections
import gzip
import hashlib
import json

import apache_beam as beam
from apache_beam.io import filesystems

from beam_pipelines import corpus, formats
from mlm.languages import registry
from mlm.text import documents, normalize, segment

UNDETERMINED = "und"
_SAMPLE_SIZE = 5
_DECISIONS_A_FILE = 1 << 20
_LISTS = ("shards", "decisions")  # small files for the driver
_DOCUMENT_FIELDS = (
  "url",
  "timestamp",
  "text",
  "language",
  "language_probability",
)


def url_hash(page: dict) -> bytes:
  """MD5 of the normalised URL; "" has one too, for records without."""
  return hashlib.md5(normalize.normalize_url(page["url"]).encode()).digest()


def language_of(page: dict) -> str:
  return page["language"] or UNDETERMINED


def split_of(page: dict, validation_modulus: int) -> str:
  """validation if md5(URL) mod modulus == 0, as in mC4 (modulus 1000)."""
  digest = int.from_bytes(url_hash(page), "big")
  return "train" if digest % validation_modulus else "validation"


def shard_of(page: dict, num_shards: int) -> int:
  # The other end of the hash, so that shards and splits are independent.
  return int.from_bytes(url_hash(page)[:8], "big") % num_shards


def _place(page: dict, copy: int) -> bytes:
  """Where a copy of a page stands in its shard: the copies are far apart."""
  if not copy:
    return url_hash(page)
  return hashlib.md5(url_hash(page) + copy.to_bytes(4, "big")).digest()


def write_lines(lines: list[str], *path: str) -> None:
  path = filesystems.FileSystems.join(*path)
  content = "".join(f"{line}\n" for line in lines).encode()
  if path.endswith(".gz"):
    content = gzip.compress(content, mtime=0)
  _write(content, path)


def _write(content: bytes, path: str) -> None:
  with filesystems.FileSystems.create(
    path, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
  ) as f:
    f.write(content)


def _num_words(text: str, language: str) -> int:
  """As the registry's language counts them; by spaces in any other."""
  known = language in registry.codes()
  return segment.num_words(text, language if known else "eng_Latn")


def _shards_by_key(sizes, label: str, capacity: float):
  """(key, size of one element) pairs -> side input {key: number of shards}."""
  return beam.pvalue.AsDict(
    sizes
    | f"size of {label}" >> beam.CombinePerKey(sum)
    | f"shards of {label}"
    >> beam.MapTuple(lambda key, size: (key, 1 + int(size / capacity)))
  )


class _WriteShard(beam.DoFn):
  """((language, split, shard, of), pages) -> (language, split, counts).

  Holds one shard in memory, the only place that holds more than a page.
  """

  def __init__(self, directory, file_format):
    self._directory = directory
    self._format = file_format

  def process(self, element):
    (language, split, shard, num_shards), pages = element
    pages = [page for page in pages if page is not None]
    counts = collections.Counter(
      documents=0, repeats=0, words=0, characters=0, bytes=0
    )
    written = []
    for _, number, page in sorted(
      ((_place(p, n), n, p) for p in pages for n in range(p.get("copies", 1))),
      key=lambda row: (row[0], row[2]["id"]),
    ):
      fields = {name: page[name] for name in _DOCUMENT_FIELDS}
      written.append(documents.Document(**fields))
      text = page["text"]
      counts["documents"] += 1
      counts["repeats"] += number > 0
      counts["words"] += _num_words(text, language)
      counts["characters"] += len(text)
      counts["bytes"] += len(text.encode())
    name = f"{split}-{shard:05d}-of-{num_shards:05d}.{self._format}"
    path = filesystems.FileSystems.join(self._directory, language, name)
    _write(formats.encode(written, self._format), path)
    yield language, split, dict(counts)


def write_shards(
  pages, directory, *, shard_bytes, validation_modulus, file_format
):
  """Writes kept pages; a split of a language gets shards by its size.

  Returns:
    Rows (language, split, counts), one for each shard written.
  """
  keyed = pages | "key by split" >> beam.Map(
    lambda page: ((page["language"], split_of(page, validation_modulus)), page)
  )
  sizes = keyed | "bytes" >> beam.MapTuple(
    lambda key, page: (key, len(page["text"].encode()) * page.get("copies", 1))
  )
  num_shards = _shards_by_key(sizes, "split", shard_bytes)

  def to_shard(element, shards):
    key, page = element
    return (*key, shard_of(page, shards[key]), shards[key]), page

  # A reader takes a missing shard for a loss: empty ones are written too.
  markers = (
    pages.pipeline
    | "all splits" >> beam.Create([None])
    | "all shards"
    >> beam.FlatMap(
      lambda _, shards: [
        ((*key, n, number), None)
        for key, number in shards.items()
        for n in range(number)
      ],
      num_shards,
    )
  )
  return (
    (keyed | "key by shard" >> beam.Map(to_shard, num_shards), markers)
    | "pages and markers" >> beam.Flatten()
    | "group by shard" >> beam.GroupByKey()
    | "write shards" >> beam.ParDo(_WriteShard(directory, file_format))
  )


class _WriteDecisions(beam.DoFn):
  """((language, shard, of), pages without text) -> rows of counts."""

  def __init__(self, directory):
    self._directory = directory

  def process(self, element):
    (language, shard, num_shards), pages = element
    lines, counts = [], collections.Counter()
    lines_removed = [0, 0]
    for page in sorted(pages, key=lambda p: p["id"]):
      stage, reason = page["drop"] or ("", "")
      row = {
        "url": page["url"],
        "language": page["language"],
        "language_probability": page["language_probability"],
        "outcome": "dropped" if stage else "kept",
        "stage": stage,
        "reason": reason,
      }
      lines.append(json.dumps(row, ensure_ascii=False))
      counts[stage, reason] += 1
      for i, number in enumerate(page["removed_lines"]):
        lines_removed[i] += number
    name = f"{language}-{shard:05d}-of-{num_shards:05d}.jsonl.gz"
    write_lines(lines, self._directory, "decisions", name)
    yield (
      language,
      [[*key, number] for key, number in sorted(counts.items())],
      lines_removed,
    )


def write_decisions(pages, directory):
  """Writes what became of each page, kept or dropped.

  Returns:
    Rows (language, [[stage, reason, pages], …], [lines removed as global, as
    local duplicates]), one for each file written.
  """

  def light(page):
    page = {**page, "text": ""}
    page.setdefault("removed_lines", [0, 0])
    return language_of(page), page

  def to_shard(element, shards):
    language, page = element
    number = shards[language]
    return (language, shard_of(page, number), number), page

  decisions = pages | "decisions" >> beam.Map(light)
  num_shards = _shards_by_key(
    decisions | "one each" >> beam.MapTuple(lambda language, _: (language, 1)),
    "decisions",
    _DECISIONS_A_FILE,
  )
  return (
    decisions
    | "key decisions" >> beam.Map(to_shard, num_shards)
    | "group decisions" >> beam.GroupByKey()
    | "write decisions" >> beam.ParDo(_WriteDecisions(directory))
  )


class _WriteSample(beam.DoFn):
  """((language, stage, reason), pages) -> path, a file for people to read."""

  def __init__(self, directory):
    self._directory = directory

  def process(self, element):
    (language, stage, reason), pages = element
    fields = ("id", "url", "language_probability", "text")
    lines = [
      json.dumps({name: page[name] for name in fields}, ensure_ascii=False)
      for page in sorted(pages, key=lambda p: p["id"])
    ]
    name = f"{stage}.{reason}.jsonl"
    write_lines(lines, self._directory, "dropped", language, name)
    yield name


def write_samples(dropped, directory):
  """Writes a few dropped pages for each language and reason, chosen by hash."""

  def rank(page):
    return hashlib.sha256(page["id"].encode()).digest()

  return (
    dropped
    | "key by reason" >> beam.Map(lambda p: ((language_of(p), *p["drop"]), p))
    | "sample" >> beam.combiners.Top.PerKey(_SAMPLE_SIZE, key=rank)
    | "write samples" >> beam.ParDo(_WriteSample(directory))
  )


def write_corpus(kept, dropped, directory, *, stages, settings) -> None:
  """Writes shards, decisions and samples; what was counted goes to `stages`.

  Args:
    kept: pages, each with a text, to be written "copies" times (1).
    dropped: pages with the reason in "drop".
    directory: of the corpus.
    stages: directory of the run in progress.
    settings: `driver.common_settings`.
  """
  written = write_shards(
    kept,
    directory,
    shard_bytes=settings["shard_bytes"],
    validation_modulus=settings["validation_modulus"],
    file_format=settings["format"],
  )
  decided = write_decisions(
    (kept, dropped) | "kept and dropped" >> beam.Flatten(), directory
  )
  write_samples(dropped, directory)
  for name, rows in zip(_LISTS, (written, decided)):
    path = filesystems.FileSystems.join(stages, f"{name}.json")
    _ = (
      rows
      | f"list {name}" >> beam.combiners.ToList()
      | f"write list of {name}" >> beam.ParDo(_WriteList(path))
    )


def read_lists(stages) -> tuple[list, list]:
  """Rows of `write_shards` and `write_decisions` of a finished pipeline."""
  return tuple(
    corpus.read_json(filesystems.FileSystems.join(stages, f"{name}.json"))
    for name in _LISTS
  )


class _WriteList(beam.DoFn):
  def __init__(self, path):
    self._path = path

  def process(self, rows):
    write_lines([json.dumps(rows)], self._path)
    yield self._path
