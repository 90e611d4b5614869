import pytest

from mlm.alignment import translated_pairs

PROMPTS = [{"id": str(i), "prompt": f"question {i}"} for i in range(7)]


def _translator(texts, source, target):
  assert source == "eng_Latn"
  return [f"{target}({text})" for text in texts]


def _chosen(prompts, code):
  return [f"{code} says: {prompt}" for prompt in prompts]


def _rejected(prompts, code):
  assert code == "eng_Latn"
  return [f"re {prompt}" for prompt in prompts]


def _build(code, **change):
  arguments = dict(
    translator=_translator, chosen=_chosen, rejected=_rejected, source="t"
  )
  return translated_pairs.build(PROMPTS[:2], code, **{**arguments, **change})


def test_native_answer_is_chosen_over_the_translated_one():
  pairs, left_out = _build("hin_Deva")
  assert left_out == []
  assert pairs[1] == {
    "id": "1/hin_Deva",
    "source_id": "1",
    "language": "hin_Deva",
    "prompt": "hin_Deva(question 1)",
    "chosen": "hin_Deva says: hin_Deva(question 1)",
    "rejected": "hin_Deva(re question 1)",
    "source": "t",
  }


def test_english_is_not_translated():
  def never(*_):
    raise AssertionError

  pairs, _ = _build("eng_Latn", translator=never)
  assert pairs[0]["prompt"] == "question 0"
  assert pairs[0]["rejected"] == "re question 0"


def test_what_translators_leave_behind_is_left_out_with_a_reason():
  pairs, left_out = _build(
    "tha_Thai",
    translator=lambda texts, *_: [
      "<unk> x" if text == "question 0" else "ก" for text in texts
    ],
    chosen=lambda prompts, _: ["ก" for _ in prompts],
  )
  assert pairs == []
  assert [row["reason"] for row in left_out] == ["unknown_piece", "equal"]
  _, left_out = _build("tha_Thai", chosen=lambda prompts, _: [" "] * 2)
  assert [row["reason"] for row in left_out] == ["empty"] * 2


def test_a_generator_that_loses_a_text_is_an_error():
  with pytest.raises(
    ValueError, match="chosen generator returned 1 texts for 2"
  ):
    _build("hin_Deva", chosen=lambda prompts, _: ["x"])


def test_languages_share_prompts_only_when_there_are_too_few():
  quotas = {"eng_Latn": 3, "hin_Deva": 4}
  assigned = translated_pairs.assign(PROMPTS, quotas, seed=1)
  ids = {code: [r["id"] for r in of] for code, of in assigned.items()}
  assert sorted(ids["eng_Latn"] + ids["hin_Deva"]) == list("0123456")
  more = translated_pairs.assign(
    PROMPTS, {"eng_Latn": 5, "hin_Deva": 7}, seed=1
  )
  assert all(len({r["id"] for r in of}) == len(of) for of in more.values())
  with pytest.raises(
    ValueError, match="hin_Deva needs 8 prompts and there are 7"
  ):
    translated_pairs.assign(PROMPTS, {"hin_Deva": 8}, seed=1)
