"""Job: preference pairs translated into another language, for translate-train."""

import os

from mlm.alignment import translate_train
from mlm.instructions import records as records_lib
from mlm.instructions.translate import Translator
from mlm.jobs import mix_preferences


def translate_preferences(
  *, preferences_dir: str, translator: Translator, target: str, output: str
) -> None:
  """Writes the pairs of a directory in the words of the target.

  Args:
    preferences_dir: directory with train.jsonl and validation.jsonl; pairs in
      the target itself are left out.
    translator: of `mlm.instructions.translate`.
    target: code.
    output: directory for train.jsonl and validation.jsonl.
  """
  paths = [os.path.join(output, f"{s}.jsonl") for s in mix_preferences.SPLITS]
  if all(map(os.path.exists, paths)):
    print(f"The preferences in {output} are there; nothing to do.")
    return
  for split, path in zip(mix_preferences.SPLITS, paths):
    pairs = records_lib.read_records(
      os.path.join(preferences_dir, f"{split}.jsonl")
    )
    translated = translate_train.translate_pairs(
      pairs, target, translate=translator
    )
    os.makedirs(output, exist_ok=True)
    records_lib.write_records(path, translated)
    print(f"{split}: {len(translated):,} of {len(pairs):,} pairs in {target}")
  print(f"Preferences: {output}")
