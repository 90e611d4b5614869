"""Preference pairs of one language in the words of another: translate-train.

A reward model of the source's pairs, translated into the target, is what
transfer without translation is compared with.

Source: Wu et al. 2024, "Reuse Your Rewards", section 5.1.
"""

from collections.abc import Mapping, Sequence

from mlm.instructions.translate import Translator


def translate_pairs(
  pairs: Sequence[Mapping], target: str, *, translate: Translator
) -> list[dict]:
  """Pairs with prompt and both responses translated into the target.

  Args:
    pairs: preference records of any languages; the target's own are left out.
    target: code.
    translate: (texts, source code, target code) -> texts.

  Returns:
    A record a pair; "translated_from" has its language.

  Raises:
    ValueError: if the translator gives another number of texts, or an empty one
      for one that is not.
  """
  translated = []
  for code in sorted({pair["language"] for pair in pairs} - {target}):
    of_language = [pair for pair in pairs if pair["language"] == code]
    texts = [text for pair in of_language for text in _texts(pair)]
    found = translate(texts, code, target)
    if len(found) != len(texts):
      raise ValueError(
        f"the translator gave {len(found)} texts for {len(texts)} from {code} "
        f"to {target}; it must give one each"
      )
    for before, after in zip(texts, found):
      if before.strip() and not after.strip():
        raise ValueError(
          f"the translator gave nothing for {before!r} ({code} to {target})"
        )
    place = iter(found)
    for pair in of_language:
      *turns, chosen, rejected = [next(place) for _ in _texts(pair)]
      is_text = isinstance(pair["prompt"], str)
      translated.append(
        {
          **pair,
          "language": target,
          "translated_from": code,
          "prompt": turns[0] if is_text else turns,
          "chosen": chosen,
          "rejected": rejected,
        }
      )
  return translated


def _texts(pair: Mapping) -> list[str]:
  """All texts of a pair; a prompt may be the turns of a conversation."""
  prompt = pair["prompt"]
  turns = [prompt] if isinstance(prompt, str) else prompt
  return [*turns, pair["chosen"], pair["rejected"]]
