"""Job: preference pairs from a public dataset, as the alignment jobs read them."""

import collections
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator

import tqdm

from mlm.alignment import preference_readers
from mlm.data import prompts
from mlm.instructions import records as records_lib
from mlm.jobs import mix_preferences
from mlm.tokenizers import load

LEFT_OUT = "left_out.jsonl"


def convert_preferences(
  *,
  inputs: str,
  reader: preference_readers.Reader,
  source: str,
  tokenizer: str,
  output: str,
  prompt_length: int,
  validation_modulus: int,
) -> None:
  """Reads rows, keeps pairs, and says by language what was left out and why.

  Args:
    inputs: file or pattern of JSON lines, plain or gzip.
    reader: of `mlm.alignment.preference_readers`.
    source: name of the dataset, kept in each pair.
    tokenizer: tokenizer directory.
    output: directory for train.jsonl, validation.jsonl, left_out.jsonl and
      counts.json.
    prompt_length: tokens that a prompt, markers included, may have.
    validation_modulus: one prompt in so many, with all its pairs, is held out.
  """
  if validation_modulus < 2:
    raise ValueError(
      f"validation_modulus {validation_modulus} must be 2 or more"
    )
  paths = sorted(glob.glob(inputs))
  if not paths:
    raise FileNotFoundError(f"no file matches {inputs!r}; correct INPUTS")
  processor = load.load(tokenizer)
  os.makedirs(output, exist_ok=True)
  splits = {split: [] for split in mix_preferences.SPLITS}
  counts: dict[str, collections.Counter] = {}
  left_out = []
  for path, number, line in _lines(paths):
    try:
      pairs = reader(json.loads(line.decode("utf-8")))
    except (ValueError, AttributeError, TypeError) as error:
      reason = str(error).split(":")[0]
      is_named = isinstance(error, ValueError) and reason.isidentifier()
      counts.setdefault("und", collections.Counter())[
        reason if is_named else "malformed"
      ] += 1
      left_out.append(
        {
          "path": path,
          "line": number,
          "reason": str(error),
          "row": line.decode("utf-8", "backslashreplace"),
        }
      )
      continue
    for place, pair in enumerate(pairs):
      of_language = counts.setdefault(pair["language"], collections.Counter())
      length = len(prompts.prompt_ids(processor, pair["prompt"]))
      if length > prompt_length:
        of_language["prompt_too_long"] += 1
        left_out.append(
          {
            "path": path,
            "line": number,
            "reason": f"prompt_too_long: {length} of {prompt_length} tokens",
            "row": json.dumps(pair, ensure_ascii=False),
          }
        )
        continue
      name = f"{os.path.basename(path)}:{number}:{place}"
      # By the first turn, so that no conversation is on both sides.
      prompt = pair["prompt"]
      first = prompt if isinstance(prompt, str) else prompt[0]
      split = mix_preferences.split_of(first, validation_modulus)
      splits[split].append({"id": name, **pair, "source": source})
      of_language[split] += 1
  if not splits["train"]:
    first = left_out[0]["reason"] if left_out else "the files are empty"
    raise ValueError(f"no pair to train on in {inputs!r}; {first}")
  for split, rows in splits.items():
    records_lib.write_records(os.path.join(output, f"{split}.jsonl"), rows)
  records_lib.write_records(os.path.join(output, LEFT_OUT), left_out)
  counted = {code: dict(counts[code]) for code in sorted(counts)}
  records_lib.write_records(os.path.join(output, "counts.json"), [counted])
  for code, of_language in counted.items():
    told = ", ".join(f"{name} {n:,}" for name, n in sorted(of_language.items()))
    print(f"{code}: {told}")
  print(f"Preferences: {output}")


def _lines(paths: list[str]) -> Iterator[tuple[str, int, bytes]]:
  for path in paths:
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rb") as f:
      try:
        for number, line in enumerate(tqdm.tqdm(f, desc=path, unit="row"), 1):
          if line.strip():
            yield path, number, line
      except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}") from error
