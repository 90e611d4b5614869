"""Prompt–response rows and batches, on hand-worked examples."""

import numpy as np
import pytest

from mlm.data import prompts
from mlm.tokenizers import special


class _Processor:
  """Bytes as pieces: lossless for any script, like byte fallback alone."""

  def encode(self, text):
    return [special.FIRST_BYTE_ID + b for b in text.encode()]

  def decode(self, ids):
    return bytes(i - special.FIRST_BYTE_ID for i in ids).decode()


TEXTS = {
  "eng_Latn": "bread",
  "rus_Cyrl": "хлеб",
  "tha_Thai": "ขนมปัง",
  "hin_Deva": "रोटी",
  "arb_Arab": "خبز",
  "zho_Hani": "面包",
  "amh_Ethi": "ዳቦ",
}


def test_batch_of_a_hand_worked_example():
  rows = np.array([[0, 3, 7, 4, 8, 9, 1, 0]])  # P = 4, R = 4
  batch = prompts.response_batch(rows, [5], prompt_length=4)
  expected = {
    "decoder_input_tokens": [0, 3, 7, 4, 8, 9, 1],
    "decoder_target_tokens": [8, 9, 1, 0],
    "decoder_loss_weights": [1, 1, 1, 0],
    "decoder_positions": [0, 0, 1, 2, 3, 4, 5],
    "decoder_segment_ids": [0, 1, 1, 1, 1, 1, 1],
    "decoder_language_ids": [5] * 7,
  }
  for name, values in expected.items():
    np.testing.assert_array_equal(batch[name][0], values, err_msg=name)


@pytest.mark.parametrize("code", TEXTS)
def test_responses_round_trip(code):
  ids = prompts.response_ids(_Processor(), TEXTS[code])
  assert ids[-1] == special.EOS_ID
  text, tokens, ended = prompts.decode_response(_Processor(), [*ids, 0, 0])
  assert (text, ended) == (TEXTS[code], True)
  assert tokens == ids[:-1]


def test_a_response_without_end_and_with_control_pieces():
  ids = [special.USER_ID, special.FIRST_BYTE_ID + 97, special.PAD_ID]
  assert prompts.decode_response(_Processor(), ids) == (
    "a",
    [special.FIRST_BYTE_ID + 97],
    False,
  )


def test_what_does_not_fit_is_refused_with_the_numbers():
  with pytest.raises(ValueError, match="prompt of 5 tokens"):
    prompts.prompt_rows([[3, 9, 9, 9, 4]], prompt_length=4)
  with pytest.raises(ValueError, match="response of 3 tokens"):
    prompts.response_rows([[9, 9, 1]], response_length=2)


def _records():
  return [
    {"language": code, "prompt": text, "response": f"{text}{i}"}
    for code, text in TEXTS.items()
    for i in range(3 if code == "eng_Latn" else 1)
  ]


def _drawn(step, *, batch_size=4, seed=1, temperature=2.0):
  draw = prompts.record_drawer(
    _records(), batch_size=batch_size, temperature=temperature, seed=seed
  )
  draw(step + 1)  # what was asked before does not matter
  return [r["response"] for r in draw(step)]


def test_draws_depend_on_seed_and_step_alone():
  assert _drawn(5) == _drawn(5)
  assert _drawn(5) != _drawn(6)
  assert _drawn(5) != _drawn(5, seed=2)


def test_languages_are_drawn_by_temperature():
  drawn = _drawn(1, batch_size=5_000)
  total = 3**0.5 + 6
  for code, weight in [("eng_Latn", 3**0.5), ("tha_Thai", 1)]:
    count = sum(r.startswith(TEXTS[code]) for r in drawn)
    expected = weight / total
    error = 4 * (expected * (1 - expected) / 5_000) ** 0.5
    assert count / 5_000 == pytest.approx(expected, abs=error)


def test_every_record_is_drawn_before_one_is_drawn_again():
  everything = [r["response"] for r in _records()]
  # In proportion to the records, nine draws are about one epoch of each.
  drawn = [r for step in range(300) for r in _drawn(step, temperature=1.0)]
  counts = [drawn.count(r) for r in everything]
  english = counts[:3]
  assert max(english) - min(english) <= 1
  assert max(counts) - min(counts) <= 3


def test_no_records_is_an_error():
  with pytest.raises(ValueError, match="no records"):
    prompts.record_drawer([], batch_size=2, temperature=1.0, seed=0)


def test_turns_of_a_conversation_are_marked_and_the_assistants_end():
  class Letters:
    @staticmethod
    def encode(text):
      return [ord(letter) for letter in text]

  one = prompts.prompt_ids(Letters(), "a")
  assert one == [special.USER_ID, 97, special.ASSISTANT_ID]
  assert prompts.prompt_ids(Letters(), ["a"]) == one
  assert prompts.prompt_ids(Letters(), ["a", "b", "c"]) == [
    *one,
    98,
    special.EOS_ID,
    special.USER_ID,
    99,
    special.ASSISTANT_ID,
  ]
