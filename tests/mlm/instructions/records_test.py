"""Instruction records: limits kept, languages right, deterministic."""

import pytest

from mlm.instructions import records, templates
from mlm.languages import registry
from mlm.text import documents

TEXTS = {
  "eng_Latn": "The baker opens the shop at dawn. Bread is sold all day long.",
  "rus_Cyrl": "Пекарь открывает лавку на рассвете. Хлеб продают весь день.",
  "hin_Deva": "नानबाई सुबह दुकान खोलता है। रोटी दिन भर बिकती है।",
  "tha_Thai": "คนทำขนมปังเปิดร้านตอนเช้า\nเขาขายขนมปังตลอดทั้งวัน",
  "zho_Hani": "面包师清晨打开店门。面包整天都在卖。",
  "arb_Arab": "يفتح الخباز دكانه عند الفجر. ويباع الخبز طوال النهار.",
  "amh_Ethi": "ዳቦ ጋጋሪው ሱቁን በማለዳ ይከፍታል። ዳቦ ቀኑን ሙሉ ይሸጣል።",
  "mal_Mlym": "അപ്പക്കാരൻ രാവിലെ കട തുറക്കുന്നു. അപ്പം ദിവസം മുഴുവൻ വിൽക്കുന്നു.",
}


def _documents():
  return [
    documents.Document(f"http://{c}/", "2026-01-01", t, c, 1.0)
    for c, t in TEXTS.items()
  ]


def _make(max_prompt_tokens=60, max_response_tokens=20, seed=0):
  return list(
    records.make_records(
      _documents(),
      tasks=templates.TASKS,
      count_tokens=len,  # a token a character
      max_prompt_tokens=max_prompt_tokens,
      max_response_tokens=max_response_tokens,
      records_per_document=12,
      seed=seed,
    )
  )


def test_every_record_fits_and_says_something():
  made = _make()
  assert {r["language"] for r in made} == set(TEXTS)
  assert {r["task"] for r in made} == set(templates.TASKS)
  assert len({r["id"] for r in made}) == len(made)
  for record in made:
    assert 0 < len(record["prompt"]) <= 60
    assert 0 < len(record["response"]) <= 20


def test_limits_hold_even_where_an_autonym_does_not_fit():
  for limit in (2, 4, 6):
    made = _make(max_response_tokens=limit)
    assert made
    assert all(0 < len(record["response"]) <= limit for record in made)


def test_responses_come_from_the_document():
  for record in _make():
    text = TEXTS[record["language"]]
    if record["task"] == "continue":
      shown = record["prompt"].split("\n", 1)[1]
      assert record["response"] in text[text.index(shown) + len(shown) :]
    elif record["task"] == "repeat":
      assert record["prompt"].endswith("\n" + record["response"])
      assert record["response"] in text
    else:
      assert record["response"] == templates.autonym(record["language"])


def test_a_missing_template_is_told():
  for record in _make():
    own = record["language"] != "mal_Mlym"
    expected = record["language"] if own else "eng_Latn"
    assert record["template_language"] == expected


def test_records_are_a_function_of_seed_and_document():
  assert _make(seed=3) == _make(seed=3)
  assert _make(seed=3) != _make(seed=4)


def test_the_table_is_complete_and_in_the_registry():
  for code, row in templates.table().items():
    registry.get(code)
    assert set(row) == {"autonym", *templates.TASKS}
    assert all(row.values())


@pytest.mark.parametrize(
  "text, limit, expected",
  [
    ("one two three", 8, "one two"),
    ("one two, three", 12, "one two,"),
    ("今天下雨了", 3, "今天下"),
    ("fits", 10, "fits"),
    ("กี่ที่", 4, "กี่"),  # a mark stays with its letter
    ("កក្ក", 3, "ក"),  # and a subscript with its coeng
    ("แกแก", 3, "แก"),  # and a vowel written first with its consonant
    ("word", 0, ""),
  ],
)
def test_fit_cuts_at_the_best_place(text, limit, expected):
  assert records.fit(text, len, limit) == expected


def test_files_round_trip_and_bad_lines_are_numbered(tmp_path):
  path = tmp_path / "r.jsonl"
  made = _make()
  assert records.write_records(path, made) == len(made)
  assert records.read_records(path) == made
  path.write_text('{"a": 1}\nnot json\n')
  with pytest.raises(ValueError, match="line 2"):
    records.read_records(path)
  with pytest.raises(FileNotFoundError, match="first"):
    records.read_records(tmp_path / "none.jsonl")
