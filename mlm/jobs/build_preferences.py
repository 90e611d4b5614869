"""Job: preference pairs in many languages, native responses over translated ones."""

import collections
import os

import tqdm

from mlm.alignment import preference_mixtures, translated_pairs
from mlm.instructions import records as records_lib
from mlm.instructions.translate import Generator, Translator
from mlm.jobs import mix_preferences


def build_preferences(
  *,
  prompts: str,
  translator: Translator,
  chosen: Generator,
  rejected: Generator,
  mixture: str | dict,
  num_rows: int | None,
  output: str,
  batch_size: int,
  validation_modulus: int,
  seed: int,
) -> None:
  """Builds the pairs of a mixture, a language at a time.

  Killed, it goes on after the last language that was finished.

  Args:
    prompts: JSON lines with "id" and "prompt", in English.
    translator: of `mlm.instructions.translate`.
    chosen: Generator of the chosen responses, in each language.
    rejected: Generator of the rejected responses, in English.
    mixture: name in `mlm.alignment.preference_mixtures`, or rows by language.
    num_rows: rows to scale the mixture to; None for its own.
    output: directory for by_language/, train.jsonl, validation.jsonl and
      left_out.jsonl.
    batch_size: prompts that are handed over at a time.
    validation_modulus: one English prompt in so many is held out, in every
      language.
    seed: of which prompts a language has.
  """
  records = records_lib.read_records(prompts)
  quotas = preference_mixtures.quotas(mixture, num_rows)
  assigned = translated_pairs.assign(records, quotas, seed=seed)
  folder = os.path.join(output, "by_language")
  os.makedirs(folder, exist_ok=True)
  pairs, left_out = [], []
  for code, of_language in assigned.items():
    paths = [
      os.path.join(folder, f"{code}.{x}.jsonl") for x in ("out", "pairs")
    ]
    if not os.path.exists(paths[1]):
      made, not_made = [], []
      for start in tqdm.trange(0, len(of_language), batch_size, desc=code):
        kept, left = translated_pairs.build(
          of_language[start : start + batch_size],
          code,
          translator=translator,
          chosen=chosen,
          rejected=rejected,
          source="translated_pairs",
        )
        made += kept
        not_made += left
      records_lib.write_records(paths[0], not_made)
      records_lib.write_records(paths[1], made)
    of_code = records_lib.read_records(paths[1])
    left = records_lib.read_records(paths[0])
    reasons = collections.Counter(row["reason"] for row in left)
    told = "".join(f", {name} {n:,}" for name, n in sorted(reasons.items()))
    print(f"{code}: {len(of_code):,} of {len(of_language):,} prompts{told}")
    pairs += of_code
    left_out += left
  mix_preferences.write_splits(output, pairs, validation_modulus)
  records_lib.write_records(os.path.join(output, "left_out.jsonl"), left_out)
  print(f"Preferences: {output}")
