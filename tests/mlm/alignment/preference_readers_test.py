"""Rows as the public datasets have them, written for these tests."""

import pytest

from mlm.alignment import preference_readers as readers

ENGLISH = readers.all_in("eng_Latn")


def _pair(prompt, chosen, rejected, language="eng_Latn", margin=0.0):
  return {
    "language": language,
    "prompt": prompt,
    "chosen": chosen,
    "rejected": rejected,
    "margin": margin,
  }


def test_transcripts_share_all_but_the_last_turn():
  read = readers.hh_rlhf(language_of=ENGLISH)
  start = (
    "\n\nHuman: Why is\nthe sea salty?\n\nAssistant: Rivers.\n\nHuman: How?"
  )
  row = {
    "chosen": start + "\n\nAssistant: They carry salt.",
    "rejected": start + "\n\nAssistant: No.",
  }
  turns = ["Why is\nthe sea salty?", "Rivers.", "How?"]
  assert read(row) == [_pair(turns, "They carry salt.", "No.")]
  one = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
    "rejected": "\n\nHuman: Hi\n\nAssistant: What",
  }
  assert read(one) == [_pair("Hi", "Hello!", "What")]


@pytest.mark.parametrize(
  "row, reason",
  [
    ({"chosen": "Hi", "rejected": "Ho"}, "turns"),
    ({"rejected": "\n\nHuman: a\n\nAssistant: b"}, "turns"),
    (
      {
        "chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: c\n\nAssistant: d",
      },
      "prompts",
    ),
    (
      dict.fromkeys(("chosen", "rejected"), "\n\nHuman: a\n\nAssistant: b"),
      "equal",
    ),
    (
      {
        "chosen": "\n\nHuman: a\n\nAssistant: ",
        "rejected": "\n\nHuman: a\n\nAssistant: d",
      },
      "empty",
    ),
    (dict.fromkeys(("chosen", "rejected"), "\n\nHuman: a"), "turns"),
  ],
)
def test_transcripts_that_cannot_be_used_say_why(row, reason):
  with pytest.raises(ValueError, match=f"^{reason}: "):
    readers.hh_rlhf(language_of=ENGLISH)(row)


def _message(role, content):
  return {"role": role, "content": content}


def test_all_forms_of_trl_give_the_same_pair():
  read = readers.trl(language_of=readers.by_field("lang", "bcp47"))
  user, good, bad = (
    _message("user", "नमस्ते?"),
    _message("assistant", "नमस्ते!"),
    _message("assistant", "?"),
  )
  rows = [
    {"prompt": "नमस्ते?", "chosen": "नमस्ते!", "rejected": "?"},
    {"prompt": [user], "chosen": [good], "rejected": [bad]},
    {"chosen": [user, good], "rejected": [user, bad]},
    {"prompt": "नमस्ते?", "chosen": [user, good], "rejected": [user, bad]},
  ]
  for row in rows:
    assert read({"lang": "hi", **row}) == [
      _pair("नमस्ते?", "नमस्ते!", "?", "hin_Deva")
    ]
  with pytest.raises(ValueError, match="^turns: 'assistant' has turn 0"):
    read({"lang": "hi", "prompt": [good], "chosen": [good], "rejected": [bad]})
  with pytest.raises(ValueError, match="^language: "):
    read({"lang": "xx", **rows[0]})
  with pytest.raises(ValueError, match="no field 'lang'"):
    read(rows[0])


def test_scores_become_margins_and_ties_no_pairs():
  row = {
    "instruction": "请数到三",
    "completions": [
      {"response": "一二", "overall_score": 6.5},
      {"response": "一二三", "overall_score": 8},
      {"response": "三", "overall_score": 6.5},
    ],
  }
  language = readers.all_in("zho_Hani")
  found = readers.ultrafeedback(language_of=language, rule="all")(row)
  assert found == [
    _pair("请数到三", "一二三", "一二", "zho_Hani", 1.5),
    _pair("请数到三", "一二三", "三", "zho_Hani", 1.5),
  ]
  extremes = readers.ultrafeedback(language_of=language, rule="extremes")
  assert extremes(row) == found[1:]
  for completion in row["completions"]:
    completion["overall_score"] = 5
  with pytest.raises(ValueError, match="^ties: "):
    extremes(row)
  with pytest.raises(ValueError, match="must be 'all' or 'extremes'"):
    readers.ultrafeedback(language_of=language, rule="some")(row)


def _node(text, role, *replies, rank=None, lang="ru", **more):
  return {
    "text": text,
    "role": role,
    "lang": lang,
    "rank": rank,
    "replies": list(replies),
    **more,
  }


def test_ranked_replies_of_a_tree_are_pairs_under_their_conversation():
  deeper = _node(
    "Ещё?",
    "prompter",
    _node("Вот.", "assistant", rank=1),
    _node("Конечно: вот.", "assistant", rank=0),
    _node("Спам", "assistant", rank=2, review_result=False),
    _node("Без ранга", "assistant"),
  )
  tree = _node(
    "Привет",
    "prompter",
    _node("Здравствуйте!", "assistant", deeper, rank=0),
    _node("Да", "assistant", rank=1),
    _node("Удалено", "assistant", rank=2, deleted=True),
  )
  turns = ["Привет", "Здравствуйте!", "Ещё?"]
  assert readers.oasst(rule="all")({"prompt": tree}) == [
    _pair("Привет", "Здравствуйте!", "Да", "rus_Cyrl"),
    _pair(turns, "Конечно: вот.", "Вот.", "rus_Cyrl"),
  ]
  alone = _node("Привет", "prompter", _node("Да", "assistant", rank=0))
  with pytest.raises(ValueError, match="^ties: "):
    readers.oasst(rule="all")({"prompt": alone})
  with pytest.raises(ValueError, match="^tree: "):
    readers.oasst(rule="all")({"message_id": "1"})
