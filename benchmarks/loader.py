"""Tokens a second of the step-indexed loader beside seqio, plain and cached.

    python -m benchmarks.loader --corpus=DIR --tokenizer=DIR --tokens=DIR
      --seqio_cache=DIR

The same tasks at the same rates; rows of --sequence_length. Each side runs in a
process of its own, in turn, and gives the seconds from its start to the first
batch and tokens (padding left out) a second after it, both also in CPU seconds of
all its threads, which other work on the machine disturbs less; medians as JSON. TOKENS
is what the job cache_tokens wrote. SEQIO_CACHE is in the format of seqio's own
cache of tasks, written first if it is not there, and timed; that side reads it
with use_cached=True and splits and packs as the plain side does. --side runs one
of the sides alone.
"""

import argparse
import json
import os
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
    seed=0,
    places=range(options.batch_size),
  )
  return indexed.prefetched(
    batch, start_step=0, num_steps=10**9, ahead=4, workers=2
  )


def _register(options) -> list[str]:
  """The project's tasks, made again with seqio's mark of what it caches."""
  import seqio

  from mlm.data import tasks

  names = tasks.register_tasks(
    corpus=options.corpus,
    tokenizer=options.tokenizer,
    sequence_length=options.sequence_length,
    prefix="mc4",
  )
  for name in names:
    task = seqio.TaskRegistry.get(name)
    tokenize, append_eos, *after = task.preprocessors
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
      name,
      source=task.source,
      preprocessors=[
        tokenize,
        append_eos,
        seqio.CacheDatasetPlaceholder(),
        *after,
      ],
      output_features=task.output_features,
    )
  return names


def _seqio(options, use_cached=False):
  import seqio

  from mlm.data import loader, mixtures, task_names
  from mlm.tokenizers import count

  names = _register(options)
  counts, plan = _plan(options, [task_names.task_language(n) for n in names])
  mixtures.register_mixture(
    name="mc4",
    tasks=names,
    token_shares={row.language: row.rate for row in plan},
    tokens_per_example=count.tokens_per_example(
      counts, split="train", sequence_length=options.sequence_length
    ),
  )
  if use_cached:
    seqio.set_global_cache_dirs([options.seqio_cache])
    mixture = seqio.MixtureRegistry.get("mc4")
    get_dataset = mixture.get_dataset
    mixture.get_dataset = lambda **kwargs: get_dataset(
      **kwargs, use_cached=True
    )
  return loader.batches(
    mixture="mc4",
    sequence_length=options.sequence_length,
    batch_size=options.batch_size,
    seed=0,
    start_step=0,
  )


def _seqio_cached(options):
  return _seqio(options, use_cached=True)


SIDES = {"indexed": _indexed, "seqio": _seqio, "seqio_cached": _seqio_cached}


def _write_seqio_cache(options) -> dict:
  """The files of seqio's cache_tasks_main, without a Beam pipeline a task."""
  import seqio
  import tensorflow as tf

  started = time.monotonic()
  for name in _register(options):
    task = seqio.TaskRegistry.get(name)
    directory = os.path.join(options.seqio_cache, name)
    os.makedirs(directory)
    prefix = seqio.get_cached_tfrecord_prefix(directory, "train")
    examples = tokens = 0
    with tf.io.TFRecordWriter(f"{prefix}-00000-of-00001") as writer:
      for example in task.preprocess_precache(
        task.source.get_dataset("train", shuffle=False)
      ).as_numpy_iterator():
        writer.write(seqio.dict_to_tfexample(example).SerializeToString())
        examples += 1
        tokens += len(example["targets"])
    for path, content in (
      (
        seqio.get_cached_info_path(directory, "train"),
        {
          "features": {"targets": {"dtype": "int32", "shape": [None]}},
          "num_shards": 1,
          "seqio_version": seqio.__version__,
        },
      ),
      (
        seqio.get_cached_stats_path(directory, "train"),
        {"examples": examples, "targets_tokens": tokens},
      ),
      (os.path.join(directory, "COMPLETED"), ""),
    ):
      with open(path, "w", encoding="utf-8") as f:
        f.write(content and json.dumps(content))
  return {"seconds": time.monotonic() - started}


def _measure(options) -> dict:
  started, cpu_started = time.monotonic(), time.process_time()
  batches = SIDES[options.side](options)
  next(batches)
  first = time.monotonic() - started
  cpu_first = time.process_time() - cpu_started
  tokens, since, cpu_since = 0, time.monotonic(), time.process_time()
  while time.monotonic() - since < options.seconds:
    tokens += int((next(batches)["decoder_segment_ids"] > 0).sum())
  return {
    "first_batch_seconds": first,
    "first_batch_cpu_seconds": cpu_first,
    "tokens_a_second": tokens / (time.monotonic() - since),
    "tokens_a_cpu_second": tokens / (time.process_time() - cpu_since),
  }


def _in_own_process(side: str) -> dict:
  command = [sys.executable, "-m", "benchmarks.loader", *sys.argv[1:]]
  printed = subprocess.run(
    [*command, f"--side={side}"], check=True, stdout=subprocess.PIPE
  ).stdout
  return json.loads(printed.splitlines()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("corpus", "tokenizer", "tokens", "seqio_cache"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--sequence_length", type=int, default=1024)
  parser.add_argument("--seconds", type=float, default=10)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--side", choices=(*SIDES, "write_seqio_cache"))
  options = parser.parse_args()
  if options.side == "write_seqio_cache":
    print(json.dumps(_write_seqio_cache(options)))
    return
  if options.side:
    print(json.dumps(_measure(options)))
    return
  report = {}
  if not os.path.exists(options.seqio_cache):
    report["write_seqio_cache"] = _in_own_process("write_seqio_cache")
  rounds = {side: [] for side in SIDES}
  for _ in range(options.repetitions):
    for side, found in rounds.items():
      found.append(_in_own_process(side))
  report |= {
    side: {
      name: statistics.median(row[name] for row in found) for name in found[0]
    }
    for side, found in rounds.items()
  }
  print(json.dumps(report, indent=1))


if __name__ == "__main__":
  main()
