"""The judge of win rates: a verifier the trainer never saw.

Training rewards the language that cld3 names. A policy could learn what pleases
cld3 rather than the language, so the judge asks another identifier, py3langid
(a naive Bayes model over byte n-grams, Lui & Baldwin 2012).
"""

from collections.abc import Callable, Sequence

from mlm.languages import registry


def second_identifier(
  languages: Sequence[str],
) -> tuple[Callable[[str], tuple[str | None, float]], tuple[str, ...]]:
  """An identifier restricted to the languages it knows among those given.

  Args:
    languages: canonical codes.

  Returns:
    (identify, known): identify maps text to (canonical code, probability), or
    (None, 0.0) for text without letters; known are the codes it can name.
  """
  from py3langid import langid

  identifier = langid.LanguageIdentifier.from_model_file(
    langid.MODEL_FILE, norm_probs=True
  )
  label_of = {}
  for code in languages:
    language = registry.get(code)
    for label in (language.bcp47, language.mc4, language.iso639_3):
      if label in identifier.labels:
        label_of[code] = label
        break
  identifier.set_languages(sorted(set(label_of.values())))
  code_of = {label: code for code, label in label_of.items()}

  def identify(text: str) -> tuple[str | None, float]:
    if not any(character.isalpha() for character in text):
      return None, 0.0
    label, probability = identifier.classify(text)
    return code_of[label], float(probability)

  return identify, tuple(label_of)
