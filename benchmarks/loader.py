"""Tokens a second of the step-indexed loader beside plain seqio.

    python -m benchmarks.loader --corpus=DIR --tokenizer=DIR --tokens=DIR

The same tasks at the same rates; rows of --sequence_length. Each side runs in a
process of its own, in turn, and gives the seconds from its start to the first
batch and tokens (padding left out) a second after it; medians as JSON. TOKENS
is what the job cache_tokens wrote; --side runs one of the sides alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def _plan(options, languages):
  from mlm.data import sampling
  from mlm.languages import samplers
  from mlm.tokenizers import count

  counts = count.read_token_counts(options.tokenizer)
  return counts, sampling.mixture_plan(
    counts,
    sampler=samplers.by_temperature(
      temperature=10 / 3, unit="tokens", max_epochs=None
    ),
    num_tokens=10**7,
    languages=languages,
  )


def _indexed(options):
  from mlm.data import indexed, objectives, schedule, task_names, token_stream
  from mlm.tokenizers import load

  names = token_stream.cached_tasks(options.tokens, "train")
  sha256 = load.read_card(options.tokenizer)["model_sha256"]
  _, plan = _plan(options, [task_names.task_language(n) for n in names])
  prefix = names[0].partition(".")[0]
  rates = {task_names.task_name(prefix, r.language): r.rate for r in plan}
  batch = indexed.batch_function(
    streams={
      name: token_stream.TokenStream(options.tokens, name, "train", sha256)
      for name in names
    },
    schedule=schedule.Schedule(
      [schedule.Phase(0, rates)], batch_size=options.batch_size, seed=0
    ),
    objective=objectives.causal(length=options.sequence_length),
    batch_size=options.batch_size,
    seed=0,
    host=0,
    num_hosts=1,
  )
  return indexed.prefetched(
    batch, start_step=0, num_steps=10**9, ahead=4, workers=2
  )


def _seqio(options):
  from mlm.data import loader, mixtures, task_names, tasks
  from mlm.tokenizers import count

  names = tasks.register_tasks(
    corpus=options.corpus,
    tokenizer=options.tokenizer,
    sequence_length=options.sequence_length,
    prefix="mc4",
  )
  counts, plan = _plan(options, [task_names.task_language(n) for n in names])
  mixtures.register_mixture(
    name="mc4",
    tasks=names,
    token_shares={row.language: row.rate for row in plan},
    tokens_per_example=count.tokens_per_example(
      counts, split="train", sequence_length=options.sequence_length
    ),
  )
  return loader.batches(
    mixture="mc4",
    sequence_length=options.sequence_length,
    batch_size=options.batch_size,
    seed=0,
    start_step=0,
  )


def _measure(options) -> dict:
  started = time.monotonic()
  batches = {"indexed": _indexed, "seqio": _seqio}[options.side](options)
  next(batches)
  first = time.monotonic() - started
  tokens, since = 0, time.monotonic()
  while time.monotonic() - since < options.seconds:
    tokens += int((next(batches)["decoder_segment_ids"] > 0).sum())
  rate = tokens / (time.monotonic() - since)
  return {"first_batch_seconds": first, "tokens_a_second": rate}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("corpus", "tokenizer", "tokens"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--sequence_length", type=int, default=1024)
  parser.add_argument("--seconds", type=float, default=10)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--side", choices=("indexed", "seqio"))
  options = parser.parse_args()
  if options.side:
    print(json.dumps(_measure(options)))
    return
  rounds = {"indexed": [], "seqio": []}
  for _ in range(options.repetitions):
    for side, found in rounds.items():
      command = [sys.executable, "-m", "benchmarks.loader", *sys.argv[1:]]
      printed = subprocess.run(
        [*command, f"--side={side}"], check=True, stdout=subprocess.PIPE
      ).stdout
      found.append(json.loads(printed.splitlines()[-1]))
  print(
    json.dumps(
      {
        side: {
          name: statistics.median(row[name] for row in found)
          for name in found[0]
        }
        for side, found in rounds.items()
      },
      indent=1,
    )
  )


if __name__ == "__main__":
  main()
