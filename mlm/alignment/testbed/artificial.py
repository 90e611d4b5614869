"""Instructions in artificial languages: copy or reverse four words.

All languages share the concepts and have no word in common, so a language is a
permutation of token ids: transfer between them is easier than between real
ones. A prompt is an instruction word, which names the language and one of two
operations, and four words for different concepts. The response wanted is the
four words, copied or reversed, in the prompt's language.

Demonstrations are noisy on purpose, so that there is something to prefer.

Letters: N rows, P prompt columns, R response columns.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mlm.alignment.testbed import tasks
from mlm.tokenizers import special

NUM_WORDS = 4
PROMPT_LENGTH = NUM_WORDS + 3  # user, instruction, words, assistant
RESPONSE_LENGTH = 7  # two words too many still end within it
COPY, REVERSE = 0, 1
FIRST_ID = special.ASSISTANT_ID + 1
KINDS = ("right", "wrong_language", "wrong_operation", "truncated")
# ISO 639-3 keeps qaa to qtz for local use, ISO 15924 Zzzz for uncoded scripts.
_CODES = tuple(f"qa{letter}_Zzzz" for letter in "abcdefghijklmnopqrstuvwxyz")


def instruction_id(language, operation):
  """Token that asks for an operation in a language."""
  return FIRST_ID + 2 * language + operation


def word_id(language, concept, *, num_languages: int, num_concepts: int):
  """Token of a concept in a language."""
  first = FIRST_ID + 2 * num_languages
  return first + language * num_concepts + concept


def english(rng: np.random.Generator, language_ids: np.ndarray, num_languages):
  """English; for English prompts, any other language.

  Stands for translationese and for models that fall back to English.
  """
  others = rng.integers(1, num_languages, len(language_ids))
  return np.where(language_ids == 0, others, 0)


def never_english(
  rng: np.random.Generator, language_ids: np.ndarray, num_languages
):
  """Any language but the prompt's and English."""
  found = rng.integers(1, num_languages - 1, len(language_ids))
  return np.where(
    (language_ids > 0) & (found >= language_ids), found + 1, found
  )


def make_task(
  *,
  num_languages: int,
  num_concepts: int,
  shares: Mapping[str, float],
  wrong_language: Callable,
) -> tasks.Task:
  """Builds the task.

  Args:
    num_languages: 3 to 26.
    num_concepts: words of each language, at least `NUM_WORDS`.
    shares: of `KINDS` among the demonstrations, summing to 1.
    wrong_language: `english` or `never_english`: (rng, language ids, number of
      languages) -> languages of the demonstrations in a wrong one.

  Raises:
    ValueError: if a number is out of range or the shares do not sum to 1.
  """
  if not 3 <= num_languages <= len(_CODES) or num_concepts < NUM_WORDS:
    raise ValueError(
      f"num_languages {num_languages} must be in [3, {len(_CODES)}] and "
      f"num_concepts {num_concepts} at least {NUM_WORDS}"
    )
  if set(shares) != set(KINDS) or abs(sum(shares.values()) - 1) > 1e-9:
    raise ValueError(
      f"shares {dict(shares)} must name exactly {', '.join(KINDS)} and sum to 1"
    )
  sizes = {"num_languages": num_languages, "num_concepts": num_concepts}

  def prompt_rows(language_ids, operations, concepts):
    rows = np.empty((len(language_ids), PROMPT_LENGTH), np.int32)
    rows[:, 0] = special.USER_ID
    rows[:, 1] = instruction_id(language_ids, operations)
    rows[:, 2:-1] = word_id(language_ids[:, None], concepts, **sizes)
    rows[:, -1] = special.ASSISTANT_ID
    return rows

  def prompts(split, rng, number):
    operations, concepts = _meanings(split, rng, number, num_concepts)
    return np.stack(
      [
        prompt_rows(np.full(number, language), operations, concepts)
        for language in range(num_languages)
      ]
    )

  def demonstrations(rng, number):
    operations, concepts = _meanings("train", rng, number, num_concepts)
    languages = rng.integers(0, num_languages, number)
    kinds = rng.choice(len(KINDS), number, p=[shares[kind] for kind in KINDS])
    of_kind = {kind: kinds == i for i, kind in enumerate(KINDS)}
    spoken = np.where(
      of_kind["wrong_language"],
      wrong_language(rng, languages, num_languages),
      languages,
    )
    answers = _answers(operations ^ of_kind["wrong_operation"], concepts)
    lengths = np.where(
      of_kind["truncated"], rng.integers(1, NUM_WORDS, number), NUM_WORDS
    )[:, None]
    responses = np.zeros((number, RESPONSE_LENGTH), np.int32)
    responses[:, :NUM_WORDS] = word_id(spoken[:, None], answers, **sizes)
    places = np.arange(RESPONSE_LENGTH)
    responses[places >= lengths] = special.PAD_ID
    responses[places == lengths] = special.EOS_ID
    rows = [prompt_rows(languages, operations, concepts), responses]
    return np.concatenate(rows, axis=1), languages.astype(np.int32)

  return tasks.Task(
    languages=_CODES[:num_languages],
    vocab_size=FIRST_ID + num_languages * (2 + num_concepts),
    prompt_length=PROMPT_LENGTH,
    response_length=RESPONSE_LENGTH,
    prompts=prompts,
    demonstrations=demonstrations,
    gold=lambda prompts, responses: gold(prompts, responses, **sizes),
    verify=lambda prompts, responses: verify(prompts, responses, **sizes),
  )


def _meanings(split, rng, number, num_concepts):
  """Operations [number] and concepts [number, 4], all different in a row.

  A weighted sum modulo 5 says which split a meaning belongs to.
  """
  remainders = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}[split]
  operations, concepts = np.empty(0, int), np.empty((0, NUM_WORDS), int)
  while len(operations) < number:
    drawn = rng.permuted(
      np.tile(np.arange(num_concepts), (4 * number, 1)), axis=1
    )[:, :NUM_WORDS]
    asked = rng.integers(0, 2, len(drawn))
    fits = np.isin((drawn @ [1, 2, 3, 7] + asked) % 5, remainders)
    operations = np.concatenate([operations, asked[fits]])[:number]
    concepts = np.concatenate([concepts, drawn[fits]])[:number]
  return operations, concepts


def _answers(operations, concepts):
  return np.where((operations == REVERSE)[:, None], concepts[:, ::-1], concepts)


def _read(prompts, responses, num_languages, num_concepts):
  """Wanted language and concepts, said languages and concepts (-1: no word)."""
  first = word_id(0, 0, num_languages=num_languages, num_concepts=num_concepts)
  languages, operations = np.divmod(prompts[:, 1] - FIRST_ID, 2)
  wanted = _answers(operations, (prompts[:, 2:-1] - first) % num_concepts)
  ended = (responses == special.EOS_ID).any(axis=1)
  lengths = np.where(
    ended, (responses == special.EOS_ID).argmax(axis=1), responses.shape[1]
  )
  is_said = np.arange(responses.shape[1]) < lengths[:, None]
  is_word = is_said & (responses >= first)
  said_languages, said = np.divmod(responses - first, num_concepts)
  said = np.where(is_word, said, -1)
  is_right_language = is_word & (said_languages == languages[:, None])
  return wanted, said, is_right_language, lengths, ended


def gold(
  prompts: np.ndarray,
  responses: np.ndarray,
  *,
  num_languages: int,
  num_concepts: int,
) -> np.ndarray:
  """The hidden score, float32 [N], at most 2.

  Share of the four positions with the right concept, in whatever language +
  share of tokens that are words of the prompt's language - 0.25 * |length - 4|
  - 1 if the response does not end; length is in tokens before EOS.

  Args:
    prompts: int32 [N, P].
    responses: int32 [N, R].
    num_languages: of the task.
    num_concepts: of the task.
  """
  wanted, said, is_right_language, lengths, ended = _read(
    prompts, responses, num_languages, num_concepts
  )
  accuracy = (said[:, :NUM_WORDS] == wanted).mean(axis=1)
  fidelity = is_right_language.sum(axis=1) / np.maximum(lengths, 1)
  off_length = np.abs(lengths - NUM_WORDS)
  score = accuracy + fidelity - 0.25 * off_length - (~ended)
  return score.astype(np.float32)


def verify(
  prompts: np.ndarray,
  responses: np.ndarray,
  *,
  num_languages: int,
  num_concepts: int,
) -> dict[str, np.ndarray]:
  """What `mlm.alignment.rewards` checks of text, float32 [N] each.

  Share of tokens in the prompt's language, share of tokens that are no repeat
  of an earlier one, and whether the response ends. All 0 for an empty one.
  """
  _, _, is_right_language, lengths, ended = _read(
    prompts, responses, num_languages, num_concepts
  )
  said = np.maximum(lengths, 1)
  different = np.array(
    [len(set(r[:n].tolist())) for r, n in zip(responses, lengths)]
  )
  parts = {
    "right_language": is_right_language.sum(axis=1) / said,
    "no_repetition": different / said,
    "ends": ended & (lengths > 0),
  }
  return {name: np.asarray(v, np.float32) for name, v in parts.items()}
