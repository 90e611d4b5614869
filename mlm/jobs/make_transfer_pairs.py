"""Job: the preference pairs of every reward model of a transfer experiment."""

import itertools
import os

from mlm.alignment import translate_train
from mlm.instructions import records as records_lib

SPLITS = ("train", "validation")


def make_transfer_pairs(
  *,
  preferences_dir: str,
  output: str,
  languages: list,
  bilingual: list,
  num_train: int,
  num_validation: int,
  translations: str | None,
  seed: int,
) -> None:
  """Writes pairs of each language, of two, and of each in every other's words.

  OUTPUT/SOURCE, OUTPUT/SOURCE+OTHER and OUTPUT/SOURCE_to_TARGET are each what
  make_preferences writes, for train_reward_model. All have as many pairs.

  Args:
    preferences_dir: directory of train.jsonl and validation.jsonl with pairs in
      all the languages.
    output: directory of the directories.
    languages: codes of the sources, which are the targets too.
    bilingual: lists of two or more codes, whose pairs are mixed evenly.
    num_train: pairs of each in train.jsonl.
    num_validation: pairs of each in validation.jsonl.
    translations: JSON-lines file of `translate_train.from_file`; None leaves
      translated pairs out.
    seed: of the choice of pairs.
  """
  translate = translations and translate_train.from_file(translations)
  for split, total in zip(SPLITS, (num_train, num_validation)):
    pairs = records_lib.read_records(
      os.path.join(preferences_dir, f"{split}.jsonl")
    )
    made = {
      "+".join(codes): translate_train.of_languages(
        pairs, codes, total=total, seed=seed
      )
      for codes in [*([code] for code in languages), *bilingual]
    }
    if translate:
      for source, target in itertools.permutations(languages, 2):
        made[f"{source}_to_{target}"] = translate_train.translate_pairs(
          made[source], target, translate=translate
        )
    for name, of_name in made.items():
      folder = os.path.join(output, name)
      os.makedirs(folder, exist_ok=True)
      records_lib.write_records(os.path.join(folder, f"{split}.jsonl"), of_name)
  print(f"{len(made)} sets of {num_train} + {num_validation} pairs: {output}")
