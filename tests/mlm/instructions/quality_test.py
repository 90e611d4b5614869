"""Tests of dropping degenerate instruction records."""

import collections

import pytest

from mlm.instructions import quality


def _record(task, code, prompt, response):
  return {
    "task": task,
    "language": code,
    "prompt": prompt,
    "response": response,
  }


@pytest.mark.parametrize(
  "record, reason",
  [
    (_record("continue", "eng_Latn", "Go on:\nOne two", "three."), None),
    (_record("repeat", "rus_Cyrl", "Ещё:\nДа", "Да"), None),
    (_record("continue", "jpn_Jpan", "続き：\n川は", "東京"), None),
    (_record("continue", "kor_Hang", "계속:\n강은", "흐른다"), None),
    (_record("continue", "pes_Arab", "ادامه:\nرود", "می‌رود"), None),
    (_record("name_language", "ell_Grek", "Ποια;\nΝαι", "ελληνικά"), None),
    (_record("continue", "eng_Latn", "Go on:\nOne", ""), "no_letters"),
    (_record("continue", "hin_Deva", "आगे:\nएक", "१२ ।"), "no_letters"),
    (
      _record("continue", "tha_Thai", "ต่อ:\nน้ำ", "น้\ufffdำ"),
      "replacement_character",
    ),
    (
      _record("repeat", "eng_Latn", "Again:\na\ufffd", "a"),
      "replacement_character",
    ),
    (
      _record("continue", "zho_Hani", "续：\n河水", "河水"),
      "response_in_prompt",
    ),
    (_record("continue", "amh_Ethi", "ቀጥል፦\nወንዙ", "Home page"), "wrong_script"),
    (_record("repeat", "srp_Cyrl", "Понови:\nreka", "reka"), "wrong_script"),
    (_record("continue", "zho_Hani", "续：\n河", "ひらがな"), "wrong_script"),
    (
      _record("name_language", "ell_Grek", "Ποια;\nHome", "ελληνικά"),
      "wrong_script",
    ),
  ],
)
def test_reason_to_drop(record, reason):
  assert quality.reason_to_drop(record) == reason


def test_kept_records_keep_their_order_and_the_others_are_counted():
  good = [
    _record("repeat", "tam_Taml", f"மீண்டும்:\n{word}", word)
    for word in ("ஆறு", "நீர்")
  ]
  empty = _record("continue", "tam_Taml", "தொடர்:\nஆறு", "")
  latin = _record("continue", "tam_Taml", "தொடர்:\nஆறு", "river")
  kept, reasons = quality.keep_good([good[0], empty, latin, good[1], empty])
  assert kept == good
  assert reasons == collections.Counter(no_letters=2, wrong_script=1)
