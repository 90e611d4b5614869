import subprocess
import sys

import pytest

from beam_pipelines import langid


def test_languages_in_ten_scripts(crawl):
  for code, text in crawl.SENTENCES.items():
    found, probability = langid.identify(text)
    assert found == code
    assert 0.7 <= probability <= 1


def test_labels_of_old_standards_become_canonical_codes():
  text = "האיכרים תיקנו את הגשר הישן לפני שירד הגשם וכולם שמחו מאוד"
  assert langid.identify(text)[0] == "heb_Hebr"  # cld3 says iw
  text = "Bønderne og fiskerne på øya var glade for at broen ikke var ødelagt, "
  text += "og de spiste brunost hele kvelden sammen med noen av jentene."
  assert langid.identify(text)[0] == "nob_Latn"  # cld3 says no


@pytest.mark.parametrize("text", ["", " \n", "12 345,67", "…!?", "😀", "\0"])
def test_without_letters_there_is_no_language(text):
  assert langid.identify(text) == (None, 0.0)


def test_a_nul_does_not_end_the_text(crawl):
  text = crawl.SENTENCES["kor_Hang"]
  assert langid.identify(f"\0{text}")[0] == "kor_Hang"


def test_beam_is_not_imported():
  code = (
    "import sys; from beam_pipelines import langid; langid.identify('abc'); "
    "sys.exit('apache_beam' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_second_opinion():
  """CLD2 on sentences of ours, and on a language that cld3 lacks."""
  oromo = "Ummanni Oromoo afaan Oromootiin dubbata, barreessas; biyya isaas."
  assert langid.identify(oromo)[0] not in (None, "orm_Latn")
  assert langid.second_agrees(oromo, "som_Latn") is False
  for code, text in {
    "swh_Latn": "Wakulima walitengeneza daraja la zamani kabla ya mvua.",
    "tha_Thai": "ชาวนาซ่อมสะพานเก่าก่อนฝนตก",
    "ell_Grek": "Οι αγρότες επισκεύασαν την παλιά γέφυρα.",
    "zho_Hani": "农民们在下雨前修好了旧桥，大家都很高兴。",
    "heb_Hebr": "החקלאים תיקנו את הגשר הישן לפני הגשם.",
    "srp_Cyrl": "Сељаци су поправили стари мост пре кише, и сви су се радовали.",
  }.items():
    assert langid.second_agrees(text, code) is True
    assert langid.second_agrees(text + "\x00\x07", code) is True
    assert langid.second_agrees(text, "fra_Latn") is False
  assert langid.second_agrees("namaste duniya", "hin_Latn") is None
