"""The FineWeb2 steps: this project beside datatrove, one core each.

    python -m benchmarks.corpus --input=crawl.warc.gz --peer_python=PYTHON

PYTHON has datatrove[io,processing] 0.10.1, trafilatura, lxml_html_clean,
faust-cchardet, python-magic, spacy, xxhash<4 and resiliparse. Runs ours,
datatrove with Trafilatura (its default), datatrove with our extractor and our
MinHash alone, in turn, pinned to a core, and prints medians as JSON:
whole-process seconds, pages a second, peak memory, seconds of datatrove's
steps. Ours also identifies the language with two detectors, which datatrove
does not do here.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from beam_pipelines import corpus

PEER = pathlib.Path(__file__).with_name("datatrove_corpus.py")


def _run(command: list[str], core: int) -> tuple[float, int, str]:
  """(seconds, peak memory in bytes, last line printed) of a process."""
  started = time.monotonic()
  process = subprocess.Popen(
    ["taskset", "-c", str(core), *command],
    stdout=subprocess.PIPE,
    text=True,
  )
  printed = process.stdout.read()
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f"{command} ended with status {status}: {printed}")
  seconds = time.monotonic() - started
  return seconds, usage.ru_maxrss * 1024, printed.strip().rpartition("\n")[2]


def _round(source: str, peer_python: str, core: int, work: str) -> dict:
  result = {}
  ours = f"{work}/ours"
  seconds, peak, _ = _run(
    [
      *(sys.executable, "-m", "beam_pipelines.fineweb2"),
      *(f"--input={source}", f"--output={ours}", "--validation_modulus=1000"),
    ],
    core,
  )
  result["ours"] = {"seconds": seconds, "peak_bytes": peak}
  for extractor in ("trafilatura", "resiliparse"):
    theirs = f"{work}/{extractor}"
    seconds, peak, printed = _run(
      [peer_python, str(PEER), source, theirs, extractor], core
    )
    steps = {f"{name}_seconds": s for name, s in json.loads(printed).items()}
    result[f"datatrove + {extractor}"] = {
      "seconds": seconds,
      "peak_bytes": peak,
      **steps,
    }
  seconds, peak, _ = _run(
    [
      *(sys.executable, "-m", "benchmarks.minhash"),
      *(f"{work}/trafilatura/extracted/*.jsonl.gz", f"{work}/minhash"),
    ],
    core,
  )
  result["our MinHash, datatrove + trafilatura's pages"] = {
    "seconds": seconds,
    "peak_bytes": peak,
  }
  result["records"] = sum(
    stage["read"]["in"]
    for stage in corpus.read_json(f"{ours}/counts.json")["funnel"].values()
  )
  return result


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--input", required=True)
  parser.add_argument("--peer_python", required=True)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--core", type=int, default=0)
  options = parser.parse_args()
  rounds = []
  for number in range(options.repetitions):
    work = tempfile.mkdtemp()
    rounds.append(
      _round(options.input, options.peer_python, options.core, work)
    )
    shutil.rmtree(work)
    print(f"round {number + 1}: {json.dumps(rounds[-1])}", file=sys.stderr)
  records = rounds[0].pop("records")
  medians = {
    side: {
      name: statistics.median(r[side][name] for r in rounds) for name in figures
    }
    for side, figures in rounds[0].items()
  }
  for figures in medians.values():
    figures["records_a_second"] = records / figures["seconds"]
  print(json.dumps({"records": records, **medians}, indent=1))


if __name__ == "__main__":
  main()
