"""The document record, and the only reader of a finished corpus.

A corpus is a folder that the Beam pipelines write (`docs/architecture.md`,
contract 2): `<code>/<split>-00000-of-00004.jsonl.gz`, one JSON object a line,
and `counts.json`, which is written last and so marks the corpus as finished.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator

SPLITS = ("train", "validation")

_SHARD = re.compile(
  r"(?P<split>\w+)-(?P<n>\d{5})-of-(?P<total>\d{5})\.jsonl\.gz"
)


@dataclasses.dataclass(frozen=True)
class Document:
  """One page of text.

  Attributes:
    url: address of the page, as crawled.
    timestamp: time of the crawl, ISO 8601, e.g. "2024-05-18T11:02:03Z".
    text: the text, lines separated by newlines.
    language: canonical code of `mlm.languages.registry`.
    language_probability: of that language, in [0, 1], from the detector.
  """

  url: str
  timestamp: str
  text: str
  language: str
  language_probability: float


_TYPES = {
  "url": str,
  "timestamp": str,
  "text": str,
  "language": str,
  "language_probability": (int, float),
}


def to_json(document: Document) -> str:
  """One line of JSON, without the newline at its end; text is not escaped."""
  return json.dumps(dataclasses.asdict(document), ensure_ascii=False)


def from_json(line: str) -> Document:
  """Reads one line that `to_json` wrote.

  Raises:
    ValueError: if the line is not a JSON object with exactly the fields of
      `Document` in their types; the message names the field.
  """
  try:
    record = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"not JSON ({error}): {line[:80]!r}") from error
  if not isinstance(record, dict) or record.keys() != _TYPES.keys():
    found = (
      sorted(record) if isinstance(record, dict) else type(record).__name__
    )
    raise ValueError(
      f"a document has the fields {list(_TYPES)}, this record has {found}"
    )
  for name, kind in _TYPES.items():
    if not isinstance(record[name], kind):
      raise ValueError(
        f"field {name!r} of a document is a {type(record[name]).__name__}: "
        f"{str(record[name])[:80]!r}"
      )
  return Document(**record)


def read_counts(corpus: str | os.PathLike) -> dict:
  """Reads `counts.json`, what the pipeline counted.

  Args:
    corpus: folder that a pipeline of `beam_pipelines` wrote.

  Returns:
    {"pipeline", "format", "languages": {code: {split: {"documents", "words",
    "characters", "bytes"}}}, "stages", "funnel"}.

  Raises:
    FileNotFoundError: if there is no corpus, or it is unfinished.
    ValueError: if the file is not the JSON that a pipeline writes, or the
      corpus is in another format than jsonl.gz.
  """
  path = pathlib.Path(corpus) / "counts.json"
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f"no corpus at {path.parent}; build one with a pipeline of "
      "beam_pipelines, or correct the path"
    )
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is missing, so the corpus is unfinished: counts.json is written "
      "last; run the pipeline that makes it again, to its end"
    )
  try:
    counts = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(
      f"{path} is not JSON ({error}); run the pipeline again"
    ) from error
  if not isinstance(counts, dict) or "languages" not in counts:
    raise ValueError(
      f"{path} has no 'languages'; it is not the counts of a corpus: run the "
      "pipeline again"
    )
  if counts.get("format", "jsonl.gz") != "jsonl.gz":
    raise ValueError(
      f"the corpus {path.parent} is in {counts['format']}, for other readers "
      "than ours; build it with --format=jsonl.gz"
    )
  return counts


def read_documents(
  corpus: str | os.PathLike, code: str, split: str
) -> Iterator[Document]:
  """Reads the documents of one language and split, in shard and line order.

  Args:
    corpus: folder of a finished corpus.
    code: canonical language code.
    split: "train" or "validation".

  Returns:
    An iterator; empty if the counts say that the split has no documents.

  Raises:
    FileNotFoundError: if the corpus is missing or unfinished or lacks a shard;
      raised by the call itself, before anything is read.
    ValueError: if the corpus has no such language or split (by the call), or a
      line or a gzip member is broken (while reading); the message names the
      file and the line.
  """
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r}; use one of {SPLITS}")
  counted = read_counts(corpus)["languages"]
  if code not in counted:
    raise ValueError(
      f"the corpus {corpus} has no language {code!r}; it has "
      f"{', '.join(sorted(counted)) or 'none'}"
    )
  if not counted[code].get(split, {}).get("documents", 0):
    return iter(())
  return _read_shards(_shards(pathlib.Path(corpus) / code, split))


def _shards(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  """The complete list of shards of a split; raises if one is missing."""
  found = {}
  totals = set()
  for path in sorted(folder.glob(f"{split}-*.jsonl.gz")):
    match = _SHARD.fullmatch(path.name)
    if match and match["split"] == split:
      found[int(match["n"])] = path
      totals.add(int(match["total"]))
  if len(totals) > 1:
    raise ValueError(
      f"{folder} mixes shards of {sorted(totals)} for {split}: two runs wrote "
      "into one folder; remove the corpus and run the pipeline again"
    )
  missing = sorted(set(range(max(totals, default=1))) - set(found))
  if missing:
    raise FileNotFoundError(
      f"{folder} lacks shard(s) {missing} of {split}, which counts.json counts; "
      "copy the corpus again or run the pipeline again"
    )
  return [found[n] for n in sorted(found)]


def _read_shards(paths: list[pathlib.Path]) -> Iterator[Document]:
  for path in paths:
    number = 0
    try:
      with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):  # noqa: B007
          yield from_json(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f"{path} is cut off or broken after line {number} ({error}); copy it "
        "again or run the pipeline again"
      ) from error
    except ValueError as error:
      raise ValueError(f"{path}, line {max(number, 1)}: {error}") from error
