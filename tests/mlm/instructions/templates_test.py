"""Tests of the instruction wordings."""

import pytest

from mlm.instructions import templates
from mlm.languages import registry
from mlm.text import scripts

# The languages of the sample crawl.
CRAWL = (
  "eng fra deu spa por tur vie ind swh zul cym rus ukr kaz zho jpn kor arb pes "
  "heb hin ben tam tha ell hye kat amh khm"
).split()


def test_every_language_of_the_sample_crawl_has_its_own_wording():
  assert len(CRAWL) == 29
  assert set(CRAWL) <= {code[:3] for code in templates.table()}


@pytest.mark.parametrize("code", sorted(templates.table()))
def test_each_row_is_complete_and_in_the_script_of_its_language(code):
  script = registry.get(code).script
  row = templates.table()[code]
  assert row.keys() == {"autonym", *templates.TASKS}
  for text in row.values():
    assert text == text.strip()
    assert scripts.script_share(text, script) == 1.0, text


def test_the_tasks_of_a_language_are_worded_differently():
  for row in templates.table().values():
    assert len(set(row.values())) == len(row)


def test_autonyms_tell_languages_apart():
  names = [row["autonym"] for row in templates.table().values()]
  assert len(set(names)) == len(names)


def test_a_prompt_is_the_instruction_and_then_the_text_untouched():
  text = "{0} {text} %s\n第二行"
  prompt = templates.prompt("repeat", "jpn_Jpan", text)
  assert prompt == templates.table()["jpn_Jpan"]["repeat"] + "\n" + text


def test_a_language_without_wording_falls_back_to_english_openly():
  assert "kmr_Latn" not in templates.table()
  assert templates.template_language("kmr_Latn") == "eng_Latn"
  english = templates.prompt("continue", "eng_Latn", "Roj baş")
  assert templates.prompt("continue", "kmr_Latn", "Roj baş") == english
  assert templates.autonym("kmr_Latn") is None
  assert templates.template_language("khm_Khmr") == "khm_Khmr"


def test_an_unknown_task_is_refused():
  with pytest.raises(ValueError, match="name_language"):
    templates.prompt("translate", "eng_Latn", "text")
