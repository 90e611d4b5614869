"""The directory of a corpus: whose it is, what is done, what was counted.

manifest.json   written first; says which inputs and settings it belongs to
stages/         staged pages of a run in progress; gone when finished
counts.json     written last; a corpus without it is unfinished
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence

from apache_beam.io import filesystem, filesystems

from mlm.languages import groups, registry

_files = filesystems.FileSystems


class InputError(ValueError):
  """A mistake of the user, told in one line before any work."""


def join(*path: str) -> str:
  return _files.join(*path)


def read_json(path: str):
  raw = filesystems.CompressionTypes.UNCOMPRESSED
  with _files.open(path, compression_type=raw) as f:
    return json.loads(f.read())


def exists(path: str) -> bool:
  return _files.exists(path)


def read_lines(path: str) -> list[str]:
  """Lines, each with its break, of a file, gzip if its name says so."""
  with _files.open(path) as f:  # decompressed by its name
    return f.read().decode().split("\n")[:-1]


def write_json(path: str, value) -> None:
  """Writes JSON so that the file is complete or not there."""
  partial = f"{path}.partial"
  with _files.create(partial) as f:
    f.write(json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n")
  _files.rename([partial], [path])


def match(pattern: str) -> list[tuple[str, int]]:
  """(path, bytes) of the files that match a pattern, by path."""
  (result,) = _files.match([pattern])
  return sorted((m.path, m.size_in_bytes) for m in result.metadata_list)


def find_inputs(patterns: str) -> list[tuple[str, int]]:
  """(path, bytes) of the files of some patterns, separated by commas.

  Raises:
    InputError: if a pattern matches no file, or the first that it matches
      cannot be read.
  """
  found = set()
  for pattern in patterns.split(","):
    files = match(pattern)
    if not files:
      raise InputError(f"no file matches --input {pattern!r}; check the path")
    path = files[0][0]
    try:
      _files.open(path).close()
    except (OSError, filesystem.BeamIOError) as error:
      raise InputError(f"cannot read --input {path}: {error}") from error
    found.update(files)
  return sorted(found)


def _difference(found: Mapping, wanted: Mapping) -> str | None:
  for name in sorted({*found, *wanted}):
    old, new = found.get(name), wanted.get(name)
    if old != new:
      told = [json.dumps(value, ensure_ascii=False) for value in (old, new)]
      told = [t if len(t) <= 120 else f"{t[:117]}..." for t in told]
      return f"{name} = {told[0]}, not {told[1]}"
  return None


def claim(output: str, manifest: dict) -> dict | None:
  """Makes a directory the one of a manifest, or checks that it is.

  Args:
    output: directory of the corpus.
    manifest: {"settings": what decides the result, "versions": of the libraries
      that decide it, …}.

  Returns:
    The counts of the corpus if it is finished, else None.

  Raises:
    InputError: if the directory cannot be written, or holds something else.
  """
  manifest = json.loads(json.dumps(manifest))
  path, counts = join(output, "manifest.json"), join(output, "counts.json")
  if not _files.exists(path):
    others = match(join(output, "*"))
    if any(name != f"{path}.partial" for name, _ in others):
      raise InputError(
        f"--output {output} has files but no manifest.json of a corpus; choose "
        "an empty directory"
      )
    try:
      write_json(path, manifest)
    except (OSError, filesystem.BeamIOError) as error:
      raise InputError(f"cannot write to --output {output}: {error}") from error
    return None
  found = read_json(path)
  finished = _files.exists(counts)
  state = "made" if finished else "begun"
  difference = _difference(found["settings"], manifest["settings"])
  # A finished corpus stays valid when a library is upgraded.
  if not difference and not finished:
    difference = _difference(found["versions"], manifest["versions"])
  if difference:
    raise InputError(
      f"the corpus in {output} was {state} with {difference}; choose another "
      "--output, or remove that directory"
    )
  return read_json(counts) if finished else None


def remove(path: str) -> None:
  """Deletes a directory of files if it is there."""
  files = [name for name, _ in match(join(path, "*"))]
  if files:
    _files.delete(files)
  if _files.exists(path):  # object stores have no empty directories
    _files.delete([path])


def nearest(name: str, known: Iterable[str]) -> str:
  """ ", or nearest" for error messages: the likeliest known names."""
  found = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
  return f"; did you mean {' or '.join(found)}?" if found else ""


def _order(code: str) -> tuple:
  """Languages of the registry in its order, then others by name."""
  known = code in registry.codes()
  return (not known, registry.index(code) if known else 0, code)


def count(
  pipeline: str,
  stages: Sequence[str],
  written: Iterable[Sequence],
  decided: Iterable[Sequence],
) -> dict:
  """The content of counts.json.

  Args:
    pipeline: its name.
    stages: in order.
    written: rows of `write.write_shards`.
    decided: rows of `write.write_decisions`.

  Raises:
    RuntimeError: if shards and decisions disagree, which is an error of ours.
  """
  languages: dict = {}
  for code, split, numbers in written:
    total = languages.setdefault(code, {}).setdefault(
      split, dict.fromkeys(numbers, 0)
    )
    for name, number in numbers.items():
      total[name] += number
  outcomes: dict = {}
  lines_removed: dict = {}
  for code, rows, (num_global, num_local) in decided:
    outcome = outcomes.setdefault(code, {})
    for stage, reason, number in rows:
      key = stage, reason
      outcome[key] = outcome.get(key, 0) + number
    lines = lines_removed.setdefault(
      code, {"global_duplicate": 0, "local_duplicate": 0}
    )
    lines["global_duplicate"] += num_global
    lines["local_duplicate"] += num_local
  for code, outcome in outcomes.items():
    documents = sum(
      n["documents"] - n["repeats"] for n in languages.get(code, {}).values()
    )
    if documents != outcome.get(("", ""), 0):
      raise RuntimeError(
        f"{code}: {documents} documents in shards, but {outcome.get(('', ''), 0)}"
        " decisions say kept; run again, and report it if it stays"
      )
  return {
    "pipeline": pipeline,
    "languages": {
      code: dict(sorted(languages[code].items()))
      for code in sorted(languages, key=_order)
    },
    "stages": list(stages),
    "funnel": {
      code: _funnel(outcomes[code], stages) for code in sorted(outcomes)
    },
    "lines_removed": {
      code: lines
      for code, lines in sorted(lines_removed.items())
      if any(lines.values())
    },
  }


def _funnel(outcome: Mapping[tuple, int], stages: Sequence[str]) -> dict:
  """In, kept and dropped by reason, stage after stage, of one language."""
  remaining, result = sum(outcome.values()), {}
  for stage in stages:
    reasons = {r: n for (s, r), n in sorted(outcome.items()) if s == stage}
    kept = remaining - sum(reasons.values())
    result[stage] = {"in": remaining, "kept": kept, "dropped": reasons}
    remaining = kept
  return result


def table(counts: dict) -> str:
  """Pages in and kept and reasons for the rest, per language, then class."""
  funnels = counts["funnel"]
  first, last = counts["stages"][0], counts["stages"][-1]
  rows = []
  for code, funnel in funnels.items():
    reasons = [
      f"{stage}.{reason} {number:,}"
      for stage, numbers in funnel.items()
      for reason, number in numbers["dropped"].items()
    ]
    rows.append((funnel[first]["in"], code, funnel[last]["kept"], reasons))
  rows.sort(key=lambda row: (-row[0], row[1]))
  by_language = {code: (pages, kept) for pages, code, kept, _ in rows}
  known = [code for code in by_language if code in registry.codes()]
  total_in, total_kept = (sum(row[i] for row in rows) for i in (0, 2))
  lines = [f"{'language':<12}{'pages':>11}{'kept':>11}  dropped"]
  for pages, code, kept, reasons in rows:
    lines.append(f"{code:<12}{pages:>11,}{kept:>11,}  {', '.join(reasons)}")
  for name, codes in groups.members(known, "joshi_class").items():
    pages, kept = (sum(by_language[c][i] for c in codes) for i in (0, 1))
    lines.append(f"{f'class {name}':<12}{pages:>11,}{kept:>11,}")
  lines.append(f"{'all':<12}{total_in:>11,}{total_kept:>11,}")
  return "\n".join(line.rstrip() for line in lines)
