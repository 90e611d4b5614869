from beam_pipelines.filters import language
from mlm.languages import registry
from mlm.text import scripts


def reason(
  text, code, probability, languages=None, script_share=0.2, second=None
):
  share = scripts.script_share(text, registry.get(code).script) if code else 0.0
  page = {
    "language": code,
    "language_probability": probability,
    "script_share": share,
    "second_agrees": second,
  }
  return language.language(
    page,
    languages=languages,
    min_probability=0.7,
    min_script_share=script_share,
  )


def test_reasons_in_order():
  assert reason("", None, 0.0) == "undetermined"
  assert reason("x", "ukr_Cyrl", 0.69) == "low_confidence"
  assert reason("мост", "ukr_Cyrl", 0.7) is None
  assert reason("мост", "ukr_Cyrl", 0.7, ["rus_Cyrl"]) == "unlisted_language"
  assert reason("мост", "ukr_Cyrl", 0.7, ["ukr_Cyrl"]) is None


def test_a_script_the_language_is_not_written_in():
  tibetan = "རྫོང་ཁ་ནི་འབྲུག་ཡུལ"
  assert reason(tibetan, "vie_Latn", 0.99) == "other_script"
  assert reason(tibetan, "vie_Latn", 0.99, script_share=0) is None
  assert reason("ᏣᎳᎩ", "hin_Deva", 0.99) == "other_script"
  # Mixed pages and mixed writing systems stay.
  assert reason("ใช้คำสั่ง apt-get install", "tha_Thai", 0.99) is None
  assert reason("한국어와 漢字", "kor_Hang", 0.99) is None
  assert reason("ひらがな", "jpn_Jpan", 0.99) is None


def test_a_second_detector_that_names_another_language():
  assert reason("мост", "ukr_Cyrl", 0.9, second=False) == "second_detector"
  # It agrees, does not know the language, or was not asked.
  assert reason("мост", "ukr_Cyrl", 0.9, second=True) is None
  assert reason("мост", "ukr_Cyrl", 0.9, second=None) is None
