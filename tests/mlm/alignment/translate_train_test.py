"""Pairs in the words of another language."""

import pytest

from mlm.alignment import translate_train

PAIRS = [
  {
    "id": code,
    "language": code,
    "prompt": prompt,
    "chosen": f"good {code}",
    "rejected": f"bad {code}",
    "margin": 0.5,
  }
  for code, prompt in (
    ("eng_Latn", "bread?"),
    ("rus_Cyrl", "хлеб?"),
    ("tha_Thai", ["ขนมปัง?", "ใช่", "ทำไม?"]),
    ("hin_Deva", "रोटी?"),
    ("deu_Latn", "Brot?"),
  )
]


def _translate(texts, source, target):
  return [f"{source}>{target} {text}" for text in texts]


def test_every_text_of_a_pair_is_translated_and_its_origin_kept():
  found = translate_train.translate_pairs(
    PAIRS, "deu_Latn", translate=_translate
  )
  assert [p["id"] for p in found] == [
    "eng_Latn",
    "hin_Deva",
    "rus_Cyrl",
    "tha_Thai",
  ]
  of = {p["id"]: p for p in found}
  assert of["rus_Cyrl"] == {
    "id": "rus_Cyrl",
    "language": "deu_Latn",
    "translated_from": "rus_Cyrl",
    "prompt": "rus_Cyrl>deu_Latn хлеб?",
    "chosen": "rus_Cyrl>deu_Latn good rus_Cyrl",
    "rejected": "rus_Cyrl>deu_Latn bad rus_Cyrl",
    "margin": 0.5,
  }
  assert of["tha_Thai"]["prompt"] == [
    f"tha_Thai>deu_Latn {turn}" for turn in PAIRS[2]["prompt"]
  ]


def test_one_call_a_language():
  calls = []

  def translate(texts, source, target):
    calls.append((source, target, len(texts)))
    return _translate(texts, source, target)

  translate_train.translate_pairs(PAIRS * 2, "deu_Latn", translate=translate)
  assert calls == [
    ("eng_Latn", "deu_Latn", 6),
    ("hin_Deva", "deu_Latn", 6),
    ("rus_Cyrl", "deu_Latn", 6),
    ("tha_Thai", "deu_Latn", 10),
  ]


@pytest.mark.parametrize(
  "translate, message",
  [
    (lambda texts, s, t: texts[1:], "2 texts for 3 from eng_Latn"),
    (lambda texts, s, t: ["", *texts[1:]], "nothing for 'bread"),
  ],
)
def test_a_translator_that_loses_text_is_refused(translate, message):
  with pytest.raises(ValueError, match=message):
    translate_train.translate_pairs(PAIRS[:1], "deu_Latn", translate=translate)
