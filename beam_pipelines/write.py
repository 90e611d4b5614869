"""Writing shards, decisions and samples; files are equal for equal input."""

import gzip
import hashlib
import json

import apache_beam as beam
from apache_beam.io import filesystems

from mlm.languages import registry
from mlm.text import documents, segment

UNDETERMINED = "und"


def url_hash(url: str) -> bytes:
  return hashlib.md5(url.encode()).digest()


def language_of(page: dict) -> str:
  return page["language"] or UNDETERMINED


def split_of(normalized_url: str, validation_modulus: int) -> str:
  """validation if md5(url) mod modulus == 0, as in mC4 (modulus 1000)."""
  digest = int.from_bytes(url_hash(normalized_url), "big")
  return "train" if digest % validation_modulus else "validation"


def _write_lines(path: str, lines: list[str]) -> None:
  raw = filesystems.FileSystems.create(
    path, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
  )
  with raw:
    if path.endswith(".gz"):
      # No time and no name in the header: equal content gives equal bytes.
      with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
        f.write("".join(f"{line}\n" for line in lines).encode())
    else:
      raw.write("".join(f"{line}\n" for line in lines).encode())


class WriteShard(beam.DoFn):
  """((language, split, shard), pages) -> (language, split, counts)."""

  def __init__(self, directory: str, num_shards: int):
    self._directory = directory
    self._num_shards = num_shards

  def process(self, element):
    (language, split, shard), pages = element
    pages = sorted(pages, key=lambda p: (url_hash(p["url"]), p["id"]))
    lines, counts = (
      [],
      dict.fromkeys(("documents", "words", "characters", "bytes"), 0),
    )
    for page in pages:
      fields = {
        name: page[name]
        for name in (
          "url",
          "timestamp",
          "text",
          "language",
          "language_probability",
        )
      }
      lines.append(documents.to_json(documents.Document(**fields)))
      text = page["text"]
      counts["documents"] += 1
      counts["words"] += segment.num_words(text, language)
      counts["characters"] += len(text)
      counts["bytes"] += len(text.encode())
    name = f"{split}-{shard:05d}-of-{self._num_shards:05d}.jsonl.gz"
    path = filesystems.FileSystems.join(self._directory, language, name)
    _write_lines(path, lines)
    yield language, split, counts


class WriteDecisions(beam.DoFn):
  """(shard, decision rows) -> nothing; one file a shard."""

  def __init__(self, directory: str):
    self._directory = directory

  def process(self, element):
    shard, rows = element
    rows = sorted(rows, key=lambda row: row["id"])
    path = filesystems.FileSystems.join(
      self._directory, "decisions", f"{shard:05d}.jsonl.gz"
    )
    _write_lines(path, [json.dumps(row, ensure_ascii=False) for row in rows])
    yield len(rows)


class WriteSample(beam.DoFn):
  """((language, stage, reason), pages) -> nothing; a file for people to read."""

  def __init__(self, directory: str):
    self._directory = directory

  def process(self, element):
    (language, stage, reason), pages = element
    lines = [
      json.dumps(
        {name: page[name] for name in ("url", "language_probability", "text")},
        ensure_ascii=False,
      )
      for page in sorted(pages, key=lambda p: p["id"])
    ]
    path = filesystems.FileSystems.join(
      self._directory, "dropped", language, f"{stage}.{reason}.jsonl"
    )
    _write_lines(path, lines)
    yield path


def table(counts: dict) -> str:
  """Pages in and kept and the reasons for the rest, per language."""
  lines = [f"{'language':<12}{'pages':>9}{'kept':>9}  dropped"]

  def order(code):
    stages = counts["funnel"][code].values()
    return -max((stage["in"] for stage in stages), default=0), code

  for code in sorted(counts["funnel"], key=order):
    funnel = counts["funnel"][code]
    pages = max(stage["in"] for stage in funnel.values())
    kept = sum(
      split["documents"] for split in counts["languages"].get(code, {}).values()
    )
    reasons = {
      f"{stage}.{reason}": number
      for stage, numbers in funnel.items()
      for reason, number in numbers["dropped"].items()
    }
    told = ", ".join(f"{name} {number:,}" for name, number in reasons.items())
    lines.append(f"{code:<12}{pages:>9,}{kept:>9,}  {told}")
  return "\n".join(lines)


def in_table_order(codes) -> list[str]:
  return sorted(codes, key=registry.index)
