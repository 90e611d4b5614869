"""Preference pairs for reward transfer: of a language, of several, translated.

Reward models are compared fairly on as many pairs each, whatever languages they
are of. A translator is a function (texts, source code, target code) -> texts.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Translator = Callable[[Sequence[str], str, str], list[str]]


def of_languages(
  pairs: Sequence[Mapping], languages: Sequence[str], *, total: int, seed: int
) -> list[Mapping]:
  """Pairs of languages, as many of each as of the others, `total` in all.

  Where the total does not divide, the first languages have one more. The pairs
  of a language for a smaller total are among those for a larger one.

  Args:
    pairs: preference records.
    languages: codes.
    total: pairs to take.
    seed: of the choice.

  Raises:
    ValueError: if a language has too few pairs.
  """
  taken = []
  for place, code in enumerate(languages):
    of_language = [pair for pair in pairs if pair["language"] == code]
    wanted = (total + len(languages) - 1 - place) // len(languages)
    if len(of_language) < wanted:
      raise ValueError(
        f"{code} has {len(of_language)} pairs, needed are {wanted} of the "
        f"{total}; take fewer, or make more"
      )
    rng = np.random.default_rng([seed, *code.encode()])
    order = rng.permutation(len(of_language))[:wanted]
    taken += [of_language[i] for i in order]
  return taken


def translate_pairs(
  pairs: Sequence[Mapping], target: str, *, translate: Translator
) -> list[dict]:
  """Pairs with prompt and both responses translated into the target.

  Args:
    pairs: preference records of any languages; those of the target stay.
    target: code.
    translate: (texts, source code, target code) -> texts.

  Returns:
    A record a pair; "translated_from" has its language.

  Raises:
    ValueError: if the translator gives another number of texts, or an empty one
      for one that is not.
  """
  translated: list[dict] = [dict(pair) for pair in pairs]
  for code in sorted({pair["language"] for pair in pairs} - {target}):
    of_language = [pair for pair in translated if pair["language"] == code]
    for field in ("prompt", "chosen", "rejected"):
      texts = [pair[field] for pair in of_language]
      found = translate(texts, code, target)
      if len(found) != len(texts):
        raise ValueError(
          f"the translator gave {len(found)} texts for {len(texts)} from {code} "
          f"to {target}"
        )
      for pair, before, after in zip(of_language, texts, found):
        if before.strip() and not after.strip():
          raise ValueError(
            f"the translator gave nothing for {before!r} ({code} to {target})"
          )
        pair[field] = after
    for pair in of_language:
      pair["translated_from"], pair["language"] = code, target
  return translated


def from_file(path: str | os.PathLike) -> Translator:
  """The translator that looks texts up in a file of translations.

  Args:
    path: JSON lines of {"source": code, "target": code, "text", "translation"}.

  Returns:
    A translator; it raises ValueError for what the file does not have.

  Raises:
    ValueError: if a line has no such fields, or two lines translate the same
      text differently.
  """
  known: dict[tuple[str, str, str], str] = {}
  with open(path, encoding="utf-8") as f:
    for number, line in enumerate(f, start=1):
      try:
        row = json.loads(line)
        key = (row["source"], row["target"], row["text"])
        translation = row["translation"]
      except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
          f"{os.fspath(path)}, line {number}: not an object with source, "
          f"target, text and translation ({error!r})"
        ) from error
      if known.setdefault(key, translation) != translation:
        raise ValueError(
          f"{os.fspath(path)}, line {number}: a second translation of "
          f"{row['text']!r} ({key[0]} to {key[1]}); keep one"
        )

  def translate(texts, source, target):
    missing = [t for t in texts if (source, target, t) not in known]
    if missing:
      raise ValueError(
        f"{os.fspath(path)} lacks {len(missing)} of {len(texts)} texts from "
        f"{source} to {target}, such as {missing[0]!r}; translate them into it"
      )
    return [known[source, target, t] for t in texts]

  return translate
