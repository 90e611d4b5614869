"""Pairs of a native response over a translated one, in many languages.

For each language, a prompt in English is translated; chosen is a response that
a model writes in the language, rejected a response to the English prompt,
translated. In English itself nothing is translated.

Source: Dang et al. 2024 (RLHF Can Speak Many Languages), section 3, with
  Command R+ for the chosen, Command for the rejected responses and NLLB.
"""

from collections.abc import Mapping, Sequence

from mlm.alignment import preference_mixtures
from mlm.instructions.translate import Generator, Translator

ENGLISH = "eng_Latn"
_UNKNOWN = "<unk>"  # what a translator leaves where it has no piece


def assign(
  prompts: Sequence[Mapping], quotas: preference_mixtures.Quotas, *, seed: int
) -> dict[str, list[Mapping]]:
  """Prompts of each language: all different ones as long as there are any.

  Languages take turns through one permutation of the prompts and begin it again
  at its end; a language never has a prompt twice.

  Args:
    prompts: records with "id" and "prompt", in English.
    quotas: language code -> prompts.
    seed: of the permutation.

  Raises:
    ValueError: if a quota exceeds the number of prompts.
  """
  for code, number in quotas.items():
    if number > len(prompts):
      raise ValueError(
        f"{code} needs {number} prompts and there are {len(prompts)}; give "
        "more, or scale the mixture down"
      )

  ordered = preference_mixtures.shuffled(prompts, seed=seed)
  assigned, start = {}, 0
  for code, number in quotas.items():
    assigned[code] = [
      ordered[i % len(ordered)] for i in range(start, start + number)
    ]
    start += number
  return assigned


def _problem(texts: Mapping[str, str]) -> str | None:
  """Why a pair is left out."""
  if not all(text.strip() for text in texts.values()):
    return "empty"
  if any(_UNKNOWN in text for text in texts.values()):
    return "unknown_piece"
  if texts["chosen"].strip() == texts["rejected"].strip():
    return "equal"
  return None


def build(
  prompts: Sequence[Mapping],
  code: str,
  *,
  translator: Translator,
  chosen: Generator,
  rejected: Generator,
  source: str,
) -> tuple[list[dict], list[dict]]:
  """Pairs of one language.

  Args:
    prompts: records with "id" and "prompt", in English.
    code: of the language.
    translator: not called for English.
    chosen: answers in the language.
    rejected: answers in English.
    source: kept in each pair.

  Returns:
    (pairs with "id", "source_id" of the English prompt, "language", "prompt",
    "chosen", "rejected", "source"; those left out, with their "reason").

  Raises:
    ValueError: if one of the three returns another number of texts.
  """
  texts = [record["prompt"] for record in prompts]
  answers = _counted("rejected generator", rejected(texts, ENGLISH), texts)
  if code != ENGLISH:
    both = _counted(
      "translator",
      translator([*texts, *answers], ENGLISH, code),
      [*texts, *answers],
    )
    texts, answers = both[: len(prompts)], both[len(prompts) :]
  native = _counted("chosen generator", chosen(texts, code), texts)
  pairs, left_out = [], []
  for record, prompt, good, bad in zip(prompts, texts, native, answers):
    pair = {
      "id": f"{record['id']}/{code}",
      "source_id": record["id"],
      "language": code,
      "prompt": prompt,
      "chosen": good,
      "rejected": bad,
      "source": source,
    }
    reason = _problem({k: pair[k] for k in ("prompt", "chosen", "rejected")})
    if reason is None:
      pairs.append(pair)
    else:
      left_out.append({**pair, "reason": reason})
  return pairs, left_out


def _counted(
  what: str, found: Sequence[str], given: Sequence[str]
) -> list[str]:
  if len(found) != len(given):
    raise ValueError(
      f"the {what} returned {len(found)} texts for {len(given)}; it must return "
      "one each, empty if it has none"
    )
  return list(found)
