"""Our tokenizers against others of the same size on the same text, by language.

    python -m benchmarks.tokenizers --corpus=DIR --parallel=NTREX --output=DIR \
      --vocab_size=64000

Trains on a corpus and every second line of parallel texts, and measures on the
other lines: temperature sampling (mT5's alpha = 0.3), the same with English as
half of the text, and the budgeted vocabulary. Writes the report of the job
compare_tokenizers to OUTPUT and prints premiums by Joshi class.
"""

import argparse
import gzip
import json
import os

import numpy as np

from mlm.evaluation import tokenizer_report
from mlm.languages import registry
from mlm.text import documents
from mlm.tokenizers import budget, fairness, train

ENGLISH = "eng_Latn"


def _texts(corpus: str, parallel: dict) -> dict[str, list[str]]:
  """code -> documents of the corpus and the lines to train on."""
  texts: dict[str, list[str]] = {}
  for label, lines in parallel.items():
    if language := fairness.language_of(label):
      texts.setdefault(language.code, []).extend(lines[0::2])
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


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("corpus", "parallel", "output"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--vocab_size", type=int, required=True)
  parser.add_argument("--budget_characters", type=int, default=20_000_000)
  options = parser.parse_args()
  parallel = fairness.read_parallel(options.parallel)
  texts = _texts(options.corpus, parallel)
  corpora = {
    "all": texts,
    "half English": _halved_for_english(texts),
  }
  for name, of in corpora.items():
    _write_corpus(of, os.path.join(options.output, name))
  method = budget.Budgeted(
    num_clusters=8,
    language_pieces=8000,
    steps=(
      200,
      300,
      400,
      500,
      600,
      700,
      800,
      1000,
      1200,
      1500,
      2000,
      3000,
      5000,
    ),
    seed=0,
  )
  paths = {}
  for name, corpus, temperature, budgeted in (
    ("temperature", "all", 10 / 3, None),
    ("half English", "half English", 1.0, None),
    ("budgeted", "all", 10 / 3, method),
  ):
    paths[name] = os.path.join(options.output, f"tokenizer {name}")
    card = train.train_tokenizer(
      corpus=os.path.join(options.output, corpus),
      output=paths[name],
      vocab_size=options.vocab_size,
      temperature=temperature,
      budget_characters=options.budget_characters,
      character_coverage=0.9995,
      budgeted=budgeted,
      seed=0,
      num_threads=os.cpu_count(),
    )
    print(f"{name}: {card['vocab_size']:,} pieces", flush=True)
  held_out = os.path.join(options.output, "held out")
  os.makedirs(held_out, exist_ok=True)
  for label, lines in parallel.items():
    with open(
      os.path.join(held_out, f"half.{label}.txt"), "w", encoding="utf-8"
    ) as f:
      f.writelines(f"{line}\n" for line in lines[1::2])
  _print(
    tokenizer_report.write_report(
      tokenizers=paths, parallel=held_out, directory=options.output
    )
  )


if __name__ == "__main__":
  main()
