"""Our tokenizers against others of the same size on the same text, by language.

    python -m benchmarks.tokenizers --corpus=DIR --parallel=NTREX --output=DIR \
      --vocab_size=64000 [--wet=FILE]

Trains on a corpus and every second line of parallel texts, and measures on the
other lines: temperature sampling (mT5's alpha = 0.3) as mT5 does it and without
repeating a language, English as half of the text, the budgeted vocabulary, and
the balanced one, which keeps a quarter of the lines to train on apart to even
premiums out by; its shares are then applied to all lines. Writes the report of the job compare_tokenizers to OUTPUT,
prints premiums by Joshi class, and with a WET file how many of its pages come
back unchanged.
"""

import argparse
import gzip
import json
import os

import numpy as np
from fastwarc import warc

from mlm.evaluation import tokenizer_report
from mlm.languages import registry, samplers
from mlm.text import documents
from mlm.tokenizers import balance, budget, encoders, fairness, train

ENGLISH = "eng_Latn"
STEPS = (200, 300, 400, 500, 600, 700, 800, 1000, 1200, 1500, 2000, 3000, 5000)


def _texts(corpus: str, parallel: dict) -> dict[str, list[str]]:
  """code -> documents of the corpus and the lines of parallel texts."""
  texts: dict[str, list[str]] = {}
  for label, lines in parallel.items():
    if language := fairness.language_of(label):
      texts.setdefault(language.code, []).extend(lines)
  for code, splits in documents.read_counts(corpus)["languages"].items():
    if splits.get("train", {}).get("documents"):
      found = documents.read_documents(corpus, code, "train")
      texts.setdefault(code, []).extend(d.text for d in found)
  return texts


def _halved_for_english(texts: dict) -> dict[str, list[str]]:
  """Texts of which English is half: the others are thinned alike."""
  sizes = {code: sum(map(len, of)) for code, of in texts.items()}
  others = sum(sizes.values()) - sizes[ENGLISH]
  rng = np.random.default_rng(0)
  share = min(1.0, sizes[ENGLISH] / others)
  return {
    code: of if code == ENGLISH else [t for t in of if rng.random() < share]
    for code, of in texts.items()
  }


def _write_corpus(texts: dict, directory: str) -> None:
  languages = {}
  for code, of in texts.items():
    if code not in registry.codes() or not of:
      continue
    folder = os.path.join(directory, code)
    os.makedirs(folder, exist_ok=True)
    rows = [
      documents.Document(
        url=f"http://{code}.example/{n}",
        timestamp="2024-01-01T00:00:00Z",
        text=text,
        language=code,
        language_probability=1.0,
      )
      for n, text in enumerate(of)
    ]
    path = os.path.join(folder, "train-00000-of-00001.jsonl.gz")
    with gzip.open(path, "wt", encoding="utf-8") as f:
      f.writelines(f"{documents.to_json(row)}\n" for row in rows)
    characters = sum(map(len, of))
    languages[code] = {
      "train": {"documents": len(of), "characters": characters}
    }
  with open(os.path.join(directory, "counts.json"), "w") as f:
    json.dump({"format": "jsonl.gz", "languages": languages}, f)


def _print(cards: dict) -> None:
  for name, measures in cards.items():
    premiums = np.array(
      [
        m.premium
        for label, m in measures.items()
        if (language := fairness.language_of(label))
        and language.code != ENGLISH
      ]
    )
    decile = np.sort(premiums)[-max(1, len(premiums) // 10) :]
    print(
      f"{name}: English {measures['eng'].tokens:,} tokens; premium mean "
      f"{premiums.mean():.3f}, worst tenth {decile.mean():.3f}, worst "
      f"{premiums.max():.3f}, Gini {fairness.gini(premiums):.3f}"
    )
    for group, number, mean, worst in tokenizer_report.by_group(measures):
      if group.startswith("joshi"):
        print(f"  {group} ({number}): mean {mean:.3f}, worst {worst:.3f}")


def _write_parallel(parallel: dict, directory: str) -> None:
  os.makedirs(directory, exist_ok=True)
  for label, lines in parallel.items():
    path = os.path.join(directory, f"part.{label}.txt")
    with open(path, "w", encoding="utf-8") as f:
      f.writelines(f"{line}\n" for line in lines)


def _print_round_trips(paths: dict, wet: str) -> None:
  with open(wet, "rb") as f:
    pages = [
      record.reader.read().decode("utf-8")
      for record in warc.ArchiveIterator(
        f, record_types=warc.WarcRecordType.conversion
      )
    ]
  for name, path in paths.items():
    encoder = encoders.open_encoder(path, name)
    same = sum(encoder.decode(encoder.encode(page)) == page for page in pages)
    print(f"{name}: {same} of {len(pages)} pages come back unchanged")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("corpus", "parallel", "output"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--vocab_size", type=int, required=True)
  parser.add_argument("--budget_characters", type=int, default=20_000_000)
  parser.add_argument("--wet")
  parser.add_argument("--only", default="", help="names, separated by ;")
  options = parser.parse_args()

  def inside(*names):
    return os.path.join(options.output, *names)

  parallel = fairness.read_parallel(options.parallel)
  parts = {
    "held out": {x: lines[1::2] for x, lines in parallel.items()},
    "balance": {x: lines[6::8] for x, lines in parallel.items()},
  }
  for name, of in parts.items():
    _write_parallel(of, inside(name))
  texts = _texts(
    options.corpus, {x: lines[0::2] for x, lines in parallel.items()}
  )
  corpora = {
    "all": texts,
    "half English": _halved_for_english(texts),
    "but balance": _texts(
      options.corpus,
      {
        x: [y for i, y in enumerate(lines) if i % 8 in (0, 2, 4)]
        for x, lines in parallel.items()
      },
    ),
  }
  for name, of in corpora.items():
    _write_corpus(of, inside(name))
  budgeted = budget.Budgeted(
    num_clusters=8,
    language_pieces=8000,
    steps=STEPS,
    seed=0,
  )
  balanced = balance.Balanced(
    parallel=inside("balance"), reference=ENGLISH, rounds=4, exponent=3.0
  )
  chosen = [name for name in options.only.split(";") if name]
  as_mt5 = {"temperature": 10 / 3, "max_epochs": None}
  once = {**as_mt5, "max_epochs": 1}

  def by_temperature(options):
    return samplers.by_temperature(**options, unit="characters")

  paths = {}

  def train_tokenizer(name, corpus, sampler, division):
    paths[name] = inside(f"tokenizer {name}")
    card = train.train_tokenizer(
      corpus=inside(corpus),
      output=paths[name],
      vocab_size=options.vocab_size,
      sampler=sampler,
      budget_characters=options.budget_characters,
      character_coverage=0.9995,
      division=division,
      seed=0,
      num_threads=os.cpu_count(),
    )
    print(f"{name}: {card['vocab_size']:,} pieces", flush=True)
    return card

  for name, corpus, how, division in (
    ("temperature", "all", as_mt5, None),
    ("temperature, once", "all", once, None),
    ("half English", "half English", {**as_mt5, "temperature": 1.0}, None),
    ("budgeted", "all", once, budgeted),
  ):
    if not chosen or name in chosen:
      train_tokenizer(name, corpus, by_temperature(how), division)
  if not chosen or "balanced" in chosen:
    card = train_tokenizer(
      "balanced", "but balance", by_temperature(as_mt5), balanced
    )
    budgets = {code: of["budget"] for code, of in card["sample"].items()}
    total = sum(budgets.values())
    shares = {code: n / total for code, n in budgets.items()}
    sampler = samplers.by_shares(shares=shares, max_epochs=None)
    train_tokenizer("balanced, all lines", "all", sampler, None)
  _print(
    tokenizer_report.write_report(
      tokenizers=paths, parallel=inside("held out"), directory=options.output
    )
  )
  if options.wet:
    _print_round_trips(paths, options.wet)


if __name__ == "__main__":
  main()
