"""The artificial languages: scores by hand, splits, demonstrations."""

import collections

import numpy as np
import pytest

from mlm.alignment.testbed import artificial
from mlm.tokenizers import special

SHARES = {
  "right": 0.35,
  "wrong_language": 0.25,
  "wrong_operation": 0.2,
  "truncated": 0.2,
}
SIZES = {"num_languages": 3, "num_concepts": 6}
EOS, PAD = special.EOS_ID, special.PAD_ID


def _task(**changes):
  settings = {
    **SIZES,
    "shares": SHARES,
    "wrong_language": artificial.english,
  }
  return artificial.make_task(**{**settings, **changes})


def _word(language, concept):
  # Ids 0 to 4 are special, 5 to 10 instructions, 11 to 16 the first language's.
  return 11 + 6 * language + concept


def _prompt(language, operation, concepts=(0, 1, 2, 3)):
  words = [_word(language, c) for c in concepts]
  return [3, 5 + 2 * language + operation, *words, 4]


def _response(*ids):
  return [*ids, *[PAD] * (7 - len(ids))]


# Concepts 0 1 2 3 in language 1, to be copied, then to be reversed.
HAND = [
  # right: 4/4 + 4/4
  (0, _response(*(_word(1, c) for c in (0, 1, 2, 3)), EOS), 2.0),
  (1, _response(*(_word(1, c) for c in (3, 2, 1, 0)), EOS), 2.0),
  # wrong operation: no position right (0 1 2 3 against 3 2 1 0)
  (1, _response(*(_word(1, c) for c in (0, 1, 2, 3)), EOS), 1.0),
  # right in another language: 4/4 + 0
  (0, _response(*(_word(0, c) for c in (0, 1, 2, 3)), EOS), 1.0),
  # two of four words: 2/4 + 2/2 - 0.25 * 2
  (0, _response(_word(1, 0), _word(1, 1), EOS), 1.0),
  # one word of another language: 4/4 + 3/4
  (0, _response(_word(1, 0), _word(2, 1), _word(1, 2), _word(1, 3), EOS), 1.75),
  # seven words, no end: 4/4 + 7/7 - 0.25 * 3 - 1
  (0, [_word(1, c) for c in (0, 1, 2, 3, 4, 4, 4)], 0.25),
  # empty: 0 + 0 - 0.25 * 4
  (0, _response(EOS), -1.0),
  # a token that is no word, in place of the last: 3/4 + 3/4
  (0, _response(_word(1, 0), _word(1, 1), _word(1, 2), 4, EOS), 1.5),
]


def test_the_hidden_score_is_what_the_hand_finds():
  prompts = np.array([_prompt(1, operation) for operation, _, _ in HAND])
  responses = np.array([response for _, response, _ in HAND])
  scores = _task().gold(prompts, responses)
  np.testing.assert_allclose(scores, [score for _, _, score in HAND], rtol=1e-6)


def test_what_is_verified_needs_no_answer():
  wrong_but_clean = _response(*(_word(1, c) for c in (5, 4, 3, 2)), EOS)
  repeated = [_word(1, 0)] * 7
  half = _response(_word(1, 0), _word(0, 1), EOS)
  prompts = np.array([_prompt(1, 0)] * 4)
  found = _task().verify(
    prompts, np.array([wrong_but_clean, repeated, half, _response(EOS)])
  )
  np.testing.assert_allclose(found["right_language"], [1, 1, 0.5, 0])
  np.testing.assert_allclose(found["no_repetition"], [1, 1 / 7, 1, 0])
  np.testing.assert_allclose(found["ends"], [1, 0, 1, 0])


def test_prompts_say_the_same_in_every_language():
  prompts = _task().prompts("train", np.random.default_rng(0), 20)
  assert prompts.shape == (3, 20, 7)
  for language in range(3):
    words = prompts[language, :, 2:-1] - _word(language, 0)
    np.testing.assert_array_equal(words, prompts[0, :, 2:-1] - _word(0, 0))
    np.testing.assert_array_equal(
      prompts[language, :, 1] - 2 * language, prompts[0, :, 1]
    )
    assert all(len(set(row)) == 4 for row in words.tolist())


def test_splits_share_no_meaning_and_each_is_a_fair_part():
  task = _task(num_concepts=20)
  rng = np.random.default_rng(0)
  meanings = {
    split: {tuple(row) for row in task.prompts(split, rng, 3000)[0].tolist()}
    for split in ("train", "validation", "test")
  }
  assert not meanings["train"] & (meanings["validation"] | meanings["test"])
  assert not meanings["validation"] & meanings["test"]
  for rows in meanings.values():  # both operations, all words in all places
    columns = np.array(sorted(rows)).T
    assert len(set(columns[1])) == 2
    assert all(len(set(column)) == 20 for column in columns[2:-1])


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompts_depend_on_the_generator_alone(split):
  first, second = (
    _task().prompts(split, np.random.default_rng(7), 9) for _ in range(2)
  )
  np.testing.assert_array_equal(first, second)


def _kinds(task, number):
  rows, language_ids = task.demonstrations(np.random.default_rng(1), number)
  found = collections.Counter()
  for row, language in zip(rows.tolist(), language_ids.tolist()):
    prompt, response = row[:7], row[7:]
    assert prompt[1] in (5 + 2 * language, 6 + 2 * language)
    words = response[: response.index(EOS)]
    said = {(word - 11) // task_concepts(task) for word in words}
    assert len(said) == 1
    asked = [c - prompt[2] for c in prompt[2:-1]]
    if prompt[1] % 2 == 0:  # 5 + 2 language is copy, the even ids are reverse
      asked = asked[::-1]
    if len(words) < 4:
      found["truncated"] += 1
    elif said != {language}:
      found["wrong_language", language == 0, said == {0}] += 1
    elif [w - words[0] for w in words] == [a - asked[0] for a in asked]:
      found["right"] += 1
    else:
      found["wrong_operation"] += 1
  return {key: value / number for key, value in found.items()}


def task_concepts(task):
  return (task.vocab_size - 5) // len(task.languages) - 2


def test_demonstrations_have_the_shares_that_were_asked_for():
  kinds = _kinds(_task(num_concepts=20), 6000)
  # 3 standard errors of a share of 6,000 are 0.02
  assert kinds["right"] == pytest.approx(0.35, abs=0.02)
  assert kinds["wrong_operation"] == pytest.approx(0.2, abs=0.02)
  assert kinds["truncated"] == pytest.approx(0.2, abs=0.02)
  # English prompts: not English; others: English and nothing else.
  assert kinds["wrong_language", True, False] == pytest.approx(0.083, abs=0.02)
  assert kinds["wrong_language", False, True] == pytest.approx(0.167, abs=0.02)
  assert ("wrong_language", False, False) not in kinds


def test_without_english_as_the_wrong_language_there_is_another():
  task = _task(num_concepts=20, wrong_language=artificial.never_english)
  kinds = _kinds(task, 4000)
  assert ("wrong_language", False, True) not in kinds
  assert kinds["wrong_language", False, False] == pytest.approx(0.167, abs=0.03)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"num_languages": 2}, "num_languages 2"),
    ({"num_concepts": 3}, "num_concepts 3"),
    ({"shares": {**SHARES, "right": 0.5}}, "sum to 1"),
  ],
)
def test_impossible_tasks_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _task(**changes)
