"""Job: a mixture of preference pairs by language."""

import collections
import hashlib
import os
from collections.abc import Sequence

from mlm.alignment import preference_mixtures
from mlm.instructions import records as records_lib

SPLITS = ("train", "validation")


def mix_preferences(
  *,
  inputs: list,
  mixture: str | dict,
  num_rows: int | None,
  output: str,
  seed: int,
) -> None:
  """Draws the training pairs of a mixture; validation pairs are kept whole.

  Held-out pairs of languages outside the mixture say how a reward model does on
  languages it has not seen.

  Args:
    inputs: directories with train.jsonl and validation.jsonl.
    mixture: name in `mlm.alignment.preference_mixtures`, or rows by language.
    num_rows: rows to scale the mixture to; None for its own.
    output: directory for train.jsonl and validation.jsonl.
    seed: of the draw.
  """
  found = {
    split: [
      pair
      for folder in inputs
      for pair in records_lib.read_records(
        os.path.join(folder, f"{split}.jsonl")
      )
    ]
    for split in SPLITS
  }
  quotas = preference_mixtures.quotas(mixture, num_rows)
  found["train"] = preference_mixtures.draw(found["train"], quotas, seed=seed)
  os.makedirs(output, exist_ok=True)
  for split, pairs in found.items():
    records_lib.write_records(os.path.join(output, f"{split}.jsonl"), pairs)
  held_out = collections.Counter(
    pair["language"] for pair in found["validation"]
  )
  for code in sorted({*quotas, *held_out}):
    print(
      f"{code}: {quotas.get(code, 0):,} to train, {held_out[code]:,} held out"
    )
  print(f"Preferences: {output}")


def split_of(key: str, modulus: int) -> str:
  """The split of whatever shares a key; one key in `modulus` is held out."""
  digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
  is_held_out = int.from_bytes(digest[:8], "little") % modulus == 0
  return "validation" if is_held_out else "train"


def write_splits(
  output: str, pairs: Sequence[dict], validation_modulus: int
) -> None:
  """Writes train.jsonl and validation.jsonl, split by "source_id"."""
  for split in SPLITS:
    records_lib.write_records(
      os.path.join(output, f"{split}.jsonl"),
      [
        pair
        for pair in pairs
        if split_of(pair["source_id"], validation_modulus) == split
      ],
    )
