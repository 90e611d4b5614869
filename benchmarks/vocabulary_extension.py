"""Four ways to begin new embedding rows, by language, before and after training.

    python -m benchmarks.vocabulary_extension --corpus=DIR --output=DIR

Trains a tokenizer and a tiny decoder on the corpus without NEW languages, a
second tokenizer on those alone, extends both, and goes on training on all
languages from each initialisation. Prints and writes extension.tsv: bytes a
token, and bits a byte of validation text, of the base, of each method at step
0, and after the continued steps. Every step returns at once when its result is
there. The word vectors for OFA are trained here, on the same corpus; published
ones, aligned across languages, are what OFA is meant for.
"""

import argparse
import collections
import csv
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm import run as launcher
from mlm.checkpoints import manager
from mlm.evaluation import bits_per_byte
from mlm.jobs import models
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.text import documents
from mlm.tokenizers import initialization, load, special, static_vectors
from mlm.training import losses, step

NEW = ("amh_Ethi", "kat_Geor", "khm_Khmr", "tam_Taml")
BASE_PIECES, SECOND_PIECES = 3072, 1536
QUICKSTART = "gin/experiments/quickstart"
METHODS = {
  "random": ("rows_at_random", {}),
  "mean of parts": (None, {}),
  "OFA": ("rows_by_ofa", {"WORD_VECTORS": "words.vec"}),
  "FOCUS": (
    "rows_by_focus",
    {"CORPUS": None, "DIMENSION": 50, "MIN_COUNT": 3},
  ),
}
SHAPE = {"D_MODEL": 64, "NUM_LAYERS": 2, "BATCH_SIZE": 4}
RANKS = (8, 16, 32, 48)
# Of the word vectors: as FOCUS here, over words for tokens.
VECTORS = {"dimension": 50, "window": 5, "min_count": 2, "seed": 0}


def _job(name: str, *files: str, in_process: bool = True, **macros) -> None:
  arguments = [
    name,
    *(f"--gin_file={file}" for file in files),
    *(f"--gin.{macro}={value}" for macro, value in macros.items()),
  ]
  if in_process:
    status = launcher.main(arguments)
  else:  # seqio keeps the tasks of another tokenizer until the process ends
    command = [sys.executable, "-m", "mlm.run", *arguments]
    status = subprocess.run(command, check=False).returncode
  if status:
    sys.exit(f"job {name} failed")


def _part_of_corpus(corpus: str, output: str, codes: list[str]) -> str:
  counts = documents.read_counts(corpus)
  for code in codes:
    shutil.copytree(
      os.path.join(corpus, code), os.path.join(output, code), dirs_exist_ok=True
    )
  counts["languages"] = {c: counts["languages"][c] for c in codes}
  with open(os.path.join(output, "counts.json"), "w", encoding="utf-8") as f:
    json.dump(counts, f)
  return output


def _write_words(corpus: str, path: str) -> None:
  """Static vectors of the words of a corpus, told apart by white space."""
  texts = [
    document.text.split()
    for code in documents.read_counts(corpus)["languages"]
    for document in documents.read_documents(corpus, code, "train")
  ]
  counts = collections.Counter(word for text in texts for word in text)
  number = {word: i for i, word in enumerate(sorted(counts))}
  vectors, has_vector = static_vectors.train_vectors(
    ([number[word] for word in text] for text in texts),
    vocab_size=len(number),
    **VECTORS,
  )
  words = [word for word, i in number.items() if has_vector[i]]
  static_vectors.write_word_vectors(path, words, vectors[has_vector])


def _score(model_dir: str, tokenizer: str, corpus: str) -> dict:
  """code -> bits_per_byte.Score of its validation text."""
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
  processor = load.load(tokenizer)
  _, model, params = models.open_decoder(
    model_dir,
    mesh=mesh,
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
  )
  place = step.make_place(mesh)
  backend = linear_cross_entropy.default_backend()
  logprobs = jax.jit(
    lambda params, batch: losses.sequence_logprobs(
      model.apply, params, batch, backend=backend
    )
  )
  result = {}
  for code, splits in documents.read_counts(corpus)["languages"].items():
    if splits.get("validation", {}).get("documents"):
      found = documents.read_documents(corpus, code, "validation")
      result[code] = bits_per_byte.score_documents(
        [document.text for document in found],
        encode=processor.encode,
        eos_id=special.EOS_ID,
        sequence_logprobs=lambda batch: logprobs(params, place(batch)),
        language_id=registry.index(code),
        length=256,
        batch_size=8,
      )
  return result


def _print_ranks(model_dir: str, tokenizer: str) -> None:
  """What the table of a model loses, and saves, as two factors."""
  _, _, params = models.open_decoder(
    model_dir,
    mesh=mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}),
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
  )
  table = np.asarray(params["embedding"])
  for rank in RANKS:
    factors = initialization.factorize(table, rank=rank)
    left = table - factors.coordinates @ factors.primitives
    print(
      f"rank {rank}: {factors.num_saved / table.size:.0%} of the table's "
      f"parameters saved, {np.sum(left**2) / np.sum(table**2):.1%} of its "
      "squares lost"
    )


def _mean(scores: dict, codes: list[str]) -> float:
  return float(np.mean([scores[code].bits_per_byte for code in codes]))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("corpus", "output"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--base_steps", type=int, default=400)
  parser.add_argument("--continued_steps", type=int, default=150)
  parser.add_argument("--seed", type=int, default=0, help="from new rows on")
  options = parser.parse_args()
  corpus = options.corpus

  def at(*names):
    return os.path.join(options.output, *names)

  codes = list(documents.read_counts(corpus)["languages"])
  old = [code for code in codes if code not in NEW]
  paths = {
    "base": _part_of_corpus(corpus, at("corpus_old"), old),
    "second": _part_of_corpus(corpus, at("corpus_new"), list(NEW)),
  }
  sizes = {"base": BASE_PIECES, "second": SECOND_PIECES}
  for name, part in paths.items():
    _job(
      "train_tokenizer",
      f"{QUICKSTART}/train_tokenizer.gin",
      CORPUS=part,
      OUTPUT=at(name),
      VOCAB_SIZE=sizes[name],
    )
  for share in (0.1, 0.5, 0.9):
    _job(
      "extend_tokenizer",
      "gin/jobs/extend_tokenizer.gin",
      BASE=at("base"),
      SECOND=at("second"),
      CORPUS=corpus,
      OUTPUT=at("extended" if share == 0.5 else f"extended_{share}"),
      NEW_SHARE=share,
    )
  for name, part in (("base", paths["base"]), ("extended", corpus)):
    _job(
      "cache_tokens",
      f"{QUICKSTART}/cache_tokens.gin",
      in_process=False,
      CORPUS=part,
      TOKENIZER=at(name),
      OUTPUT=at(f"tokens_{name}"),
    )
  _job(
    "pretrain",
    f"{QUICKSTART}/pretrain.gin",
    TOKENS=at("tokens_base"),
    TOKENIZER=at("base"),
    OUTPUT=at("pretrained"),
    VOCAB_SIZE=BASE_PIECES,
    TRAIN_STEPS=options.base_steps,
    **SHAPE,
  )
  _print_ranks(at("pretrained"), at("base"))
  _write_words(corpus, at("words.vec"))
  scores = {("base", 0): _score(at("pretrained"), at("base"), corpus)}
  for method, (overlay, macros) in METHODS.items():
    slug = method.replace(" ", "_")
    macros = {
      name: {"CORPUS": corpus, "WORD_VECTORS": at("words.vec")}.get(name, value)
      for name, value in macros.items()
    }
    files = ["gin/jobs/extend_model.gin"]
    if overlay:
      files.append(f"gin/data/{overlay}.gin")
    _job(
      "extend_model",
      *files,
      BASE=at("base"),
      TOKENIZER=at("extended"),
      INITIAL=at("pretrained"),
      OUTPUT=at(slug),
      SEED=options.seed,
      **macros,
    )
    metadata = manager.read_metadata(models.checkpoints_of(at(slug)))
    _job(
      "pretrain",
      f"{QUICKSTART}/pretrain.gin",
      TOKENS=at("tokens_extended"),
      TOKENIZER=at("extended"),
      INITIAL=at(slug),
      OUTPUT=at(f"{slug}_continued"),
      VOCAB_SIZE=metadata["model"]["vocab_size"],
      TRAIN_STEPS=options.continued_steps,
      SEED=options.seed,
      **SHAPE,
    )
    for steps, directory in (
      (0, slug),
      (options.continued_steps, f"{slug}_continued"),
    ):
      scores[method, steps] = _score(at(directory), at("extended"), corpus)
  card = load.read_card(at("extended"))["validation"]
  scored = sorted(scores["base", 0])
  with open(at("extension.tsv"), "w", encoding="utf-8", newline="") as f:
    table = csv.writer(f, delimiter="\t", lineterminator="\n")
    names = [f"{method}, step {steps}" for method, steps in scores]
    table.writerow(
      "language is_new documents bytes bytes_per_token_base".split()
      + ["bytes_per_token_extended", "new_pieces"]
      + [f"bits_per_byte: {name}" for name in names]
    )
    for code in scored:
      row = card[code]
      table.writerow(
        [code, code in NEW, row["documents"], row["bytes"]]
        + [f"{row['bytes'] / row[k]:.3f}" for k in ("base_tokens", "tokens")]
        + [f"{row['new_tokens'] / row['tokens']:.4f}"]
        + [f"{of[code].bits_per_byte:.4f}" for of in scores.values()]
      )
  groups = {
    **{code: [code] for code in NEW},
    "new, mean": list(NEW),
    "old, mean": [code for code in scored if code not in NEW],
  }
  print("\nbits a byte".ljust(30) + "".join(g.rjust(12) for g in groups))
  for name, of in zip(names, scores.values()):
    cells = "".join(f"{_mean(of, c):>12.3f}" for c in groups.values())
    print(f"{name:<29}{cells}")
  for share in (0.1, 0.5, 0.9):
    directory = "extended" if share == 0.5 else f"extended_{share}"
    rows = load.read_card(at(directory))["validation"]
    parts = []
    for name, is_new in (("old", False), ("new", True)):
      of = [row for code, row in rows.items() if (code in NEW) == is_new]
      total = {
        key: sum(row[key] for row in of)
        for key in ("tokens", "base_tokens", "new_tokens")
      }
      parts.append(
        f"{name}: {total['base_tokens']:,} -> {total['tokens']:,} tokens, "
        f"{total['new_tokens'] / total['tokens']:.2%} new pieces"
      )
    print(f"new_share {share}: {'; '.join(parts)}")


if __name__ == "__main__":
  main()
