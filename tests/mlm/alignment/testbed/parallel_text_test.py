"""Real text as a task: scores by hand, splits, demonstrations, in 7 scripts."""

import collections
import gzip

import numpy as np
import pytest

from mlm.alignment import rewards
from mlm.alignment.testbed import artificial, parallel_text
from mlm.evaluation import judge
from mlm.languages import registry
from mlm.text import chrf, scripts
from mlm.tokenizers import special

# Written for this test; a line a document, the fourth and fifth of five are for
# validation and for testing.
LINES = {
  "eng": (
    "The baker opens the small shop before the sun comes up.",
    "Our neighbour grows apples, pears and plums behind the house.",
    "Yesterday the children built a bridge of stones in the river.",
    "The old train to the coast was late again because of the snow.",
    "My sister writes letters to her friends in the mountains.",
  ),
  "rus": (
    "Пекарь открывает маленькую лавку ещё до восхода солнца.",
    "Наш сосед выращивает за домом яблоки, груши и сливы.",
    "Вчера дети построили в реке мост из больших камней.",
    "Старый поезд к морю снова опоздал из-за сильного снега.",
    "Моя сестра пишет письма своим друзьям в горах.",
  ),
  "ell": (
    "Ο φούρναρης ανοίγει το μικρό μαγαζί πριν βγει ο ήλιος.",
    "Ο γείτονάς μας καλλιεργεί μήλα και αχλάδια πίσω από το σπίτι.",
    "Χθες τα παιδιά έχτισαν μια γέφυρα από πέτρες στο ποτάμι.",
    "Το παλιό τρένο για τη θάλασσα άργησε πάλι λόγω του χιονιού.",
    "Η αδελφή μου γράφει γράμματα στους φίλους της στα βουνά.",
  ),
  "arb": (
    "يفتح الخباز الدكان الصغير قبل أن تشرق الشمس كل صباح.",
    "يزرع جارنا التفاح والكمثرى والبرقوق خلف البيت الكبير.",
    "بنى الأطفال أمس جسرا من الحجارة الكبيرة في النهر.",
    "تأخر القطار القديم إلى الساحل مرة أخرى بسبب الثلج.",
    "تكتب أختي رسائل إلى أصدقائها الذين يعيشون في الجبال.",
  ),
  "hin": (
    "बेकर सूरज निकलने से पहले अपनी छोटी दुकान खोलता है।",
    "हमारा पड़ोसी घर के पीछे सेब, नाशपाती और आलूबुखारा उगाता है।",
    "कल बच्चों ने नदी में बड़े पत्थरों का एक पुल बनाया।",
    "समुद्र तट की पुरानी रेलगाड़ी बर्फ के कारण फिर देर से आई।",
    "मेरी बहन पहाड़ों में रहने वाले अपने दोस्तों को पत्र लिखती है।",
  ),
  "jpn": (
    "パン屋は日が昇る前に小さな店を開けて、朝の客を待っている。",
    "隣の人は家の裏でりんごと梨とすももを育てている。",
    "昨日、子どもたちは川に大きな石の橋を作りました。",
    "海岸へ行く古い列車は雪のためにまた遅れました。",
    "私の姉は山に住んでいる友だちに手紙を書きます。",
  ),
  "kor": (
    "빵집 주인은 해가 뜨기 전에 작은 가게 문을 연다.",
    "우리 이웃은 집 뒤에서 사과와 배와 자두를 기른다.",
    "어제 아이들은 강에 큰 돌로 다리를 만들었습니다.",
    "바닷가로 가는 오래된 기차는 눈 때문에 또 늦었습니다.",
    "내 누나는 산에 사는 친구들에게 편지를 씁니다.",
  ),
}
CODES = (
  "eng_Latn",
  "rus_Cyrl",
  "ell_Grek",
  "arb_Arab",
  "hin_Deva",
  "jpn_Jpan",
  "kor_Hang",
)
SHARES = {
  "right": 0.35,
  "wrong_language": 0.25,
  "continued": 0.2,
  "truncated": 0.2,
}
W = 8
P, R = W + 2, W + 4
VOCAB_SIZE = 520


def _by_script(languages):
  """Names the language by its script, as sure as the share of its letters."""
  code_of = {registry.get(code).script: code for code in languages}

  def identify(text):
    script, share = scripts.main_script(text)
    return code_of.get(script), share

  return identify, tuple(languages)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  folder = tmp_path_factory.mktemp("texts")
  for label, lines in LINES.items():
    _write(folder / f"text.{label}.txt.gz", lines)
  (folder / "documents.txt").write_text("a\nb\nc\nd\ne\n")
  return folder


def _write(path, lines):
  path.write_bytes(gzip.compress("".join(f"{x}\n" for x in lines).encode()))


READ = {
  "documents": "documents.txt",
  "languages": CODES,
  "vocab_size": VOCAB_SIZE,
  "character_coverage": 1.0,
  "num_pieces": W,
  "identifier": _by_script,
}


def _make(folder, **changes):
  settings = {**READ, "shares": SHARES, "wrong_language": artificial.english}
  return parallel_text.make_task(
    directory=str(folder), **{**settings, **changes}
  )


def _read(folder, **changes):
  return parallel_text.read_text(directory=str(folder), **{**READ, **changes})


@pytest.fixture(scope="module")
def task(texts):
  return _make(texts)


@pytest.fixture(scope="module")
def processor(texts):
  return _read(texts).processor


def _text(processor, ids):
  return processor.decode([i for i in ids if i > 4])


def _response(ids):
  return [*ids, *[special.PAD_ID] * (R - len(ids))]


def _scores(task, prompt, *responses):
  prompts = np.array([prompt] * len(responses))
  return task.gold(prompts, np.array([_response(r) for r in responses]))


@pytest.mark.parametrize("language", range(len(CODES)))
def test_the_hidden_score_is_what_the_hand_finds_in_every_script(
  task, processor, language
):
  prompts = task.prompts("test", np.random.default_rng(0), 1)[:, 0].tolist()
  prompt = prompts[language]
  other = prompts[(language + 1) % len(CODES)]
  wanted, part, foreign = (
    _text(processor, ids) for ids in (prompt, prompt[1:5], other)
  )
  right, half, wrong = prompt[1:-1], prompt[1:5], other[1:-1]
  end = special.EOS_ID
  scores = _scores(
    task,
    prompt,
    [*right, end],
    [*half, end],
    [*wrong, end],
    [end],
    right,
    [*right, *half],
  )
  missing = 1 - len(part) / len(wanted)
  off = min(1, abs(len(foreign) - len(wanted)) / len(wanted))
  repeated = (len(set(right)) - len(right)) / len(right)
  twice = wanted + _text(processor, [*right, *half])[len(wanted) :]
  expected = [
    2.0,
    chrf.chrf(part, wanted) + 1 - missing,
    chrf.chrf(foreign, wanted) - off - max(0, _repeats(wrong) + repeated),
    -1.0,  # nothing said: no likeness, all of the length missing
    1.0,  # right, but without an end
    chrf.chrf(twice, wanted)
    + 1
    - (len(twice) - len(wanted)) / len(wanted)
    - (_repeats([*right, *half]) - _repeats(right))
    - 1,
  ]
  np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
  assert scores[0] == scores.max()


def _repeats(ids):
  return 1 - len(set(ids)) / len(ids)


def test_a_response_by_hand(task, processor):
  # Prompt "ab cd", said "ab": unigrams a b of a b c d, the bigram ab of three:
  # precision 1, recall (2/4 + 1/3) / 2 = 5/12, F2 = 5 * 5/12 / (4 + 5/12) =
  # 25/53; right language; three of five characters missing.
  ask = [special.USER_ID, *processor.encode("ab cd"), special.ASSISTANT_ID]
  (score,) = _scores(task, ask, [*processor.encode("ab"), special.EOS_ID])
  assert score == pytest.approx(25 / 53 + 1 - 3 / 5)


def test_what_is_verified_needs_no_answer(task, processor):
  prompts = task.prompts("test", np.random.default_rng(0), 1)[:, 0].tolist()
  ids = prompts[1][1:-1]
  letter = next(i for i in ids if _text(processor, [i]).isalpha())
  end = special.EOS_ID
  found = task.verify(
    np.array([prompts[1]] * 4),
    np.array(
      [
        _response([*ids[::-1], end]),  # no answer, but nothing to blame
        _response([letter] * R),
        _response([*prompts[0][1:-1], end]),
        _response([end]),
      ]
    ),
  )
  assert {name: of.dtype for name, of in found.items()} == dict.fromkeys(
    rewards.PARTS, np.float32
  )
  np.testing.assert_allclose(found["right_language"], [1, 1, 0, 0])
  np.testing.assert_allclose(
    found["no_repetition"],
    [1 - _repeats(ids), 1 / R, 1 - _repeats(prompts[0][1:-1]), 0],
    rtol=1e-6,
  )
  np.testing.assert_allclose(found["ends"], [1, 0, 1, 0])


def test_splits_are_whole_documents_the_same_in_all_languages(task, processor):
  documents = {"train": {0, 1, 2}, "validation": {3}, "test": {4}}
  for split, allowed in documents.items():
    prompts = task.prompts(split, np.random.default_rng(1), 30)
    assert prompts.shape == (len(CODES), 30, P)
    assert (prompts[:, :, 0] == special.USER_ID).all()
    assert (prompts[:, :, -1] == special.ASSISTANT_ID).all()
    for of_meaning in prompts.swapaxes(0, 1).tolist():
      lines = [
        {
          i
          for i, line in enumerate(of_language)
          if _text(processor, row) in line
        }
        for row, of_language in zip(of_meaning, LINES.values(), strict=True)
      ]
      assert set.intersection(*lines) and set.intersection(*lines) <= allowed


def test_stretches_begin_with_words_and_cut_no_character(task, processor):
  prompts = task.prompts("train", np.random.default_rng(2), 40)
  for code, rows, lines in zip(CODES, prompts, LINES.values(), strict=True):
    for row in rows.tolist():
      text = _text(processor, row)
      assert "\ufffd" not in text
      if registry.get(code).word_separator == "space":
        assert any(f" {text}" in f" {line}" for line in lines)


def test_prompts_depend_on_the_generator_alone(texts, task):
  first, second = (
    of.prompts("train", np.random.default_rng(7), 9)
    for of in (task, _make(texts))
  )
  np.testing.assert_array_equal(first, second)


def test_demonstrations_have_the_shares_that_were_asked_for(task, processor):
  rows, ids = task.demonstrations(np.random.default_rng(1), 4000)
  assert rows.shape == (4000, P + R)
  found = collections.Counter()
  for row, language in zip(rows.tolist(), ids.tolist()):
    wanted, said = row[1 : P - 1], row[P : row.index(special.EOS_ID)]
    line = next(
      x for x in list(LINES.values())[language] if _text(processor, wanted) in x
    )
    if said == wanted:
      found["right"] += 1
    elif said == wanted[: len(said)]:
      found["truncated"] += 1
    elif _text(processor, said).strip() in line:
      found["continued"] += 1
    else:
      script, _ = scripts.main_script(_text(processor, said))
      found["wrong_language", language == 0, script == "Latn"] += 1
  # 3 standard errors of a share of 4,000 are 0.024
  share = {kind: number / 4000 for kind, number in found.items()}
  for kind in ("right", "continued", "truncated"):
    assert share[kind] == pytest.approx(SHARES[kind], abs=0.024)
  # English prompts: not English; others: English and nothing else.
  assert share["wrong_language", True, False] == pytest.approx(
    0.25 / 7, abs=0.01
  )
  assert share["wrong_language", False, True] == pytest.approx(
    0.25 * 6 / 7, abs=0.024
  )
  assert len(found) == 5


def test_the_second_identifier_knows_the_languages_of_longer_stretches():
  identify, known = judge.second_identifier(CODES)
  assert set(known) == set(CODES)
  for code, lines in zip(CODES, LINES.values(), strict=True):
    assert {identify(line)[0] for line in lines} == {code}


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"languages": (*CODES, "vie_Latn")}, "no text in vie_Latn"),
    ({"vocab_size": 5000}, "set VOCAB_SIZE to"),
    ({"vocab_size": 300}, "raise vocab_size"),
    ({"num_pieces": 60}, "no line of 120 pieces"),
    (
      {"identifier": lambda languages: (None, languages[1:])},
      "does not know eng_Latn",
    ),
  ],
)
def test_impossible_texts_are_refused(texts, changes, message):
  with pytest.raises(ValueError, match=message):
    _read(texts, **changes)


def test_missing_and_unaligned_files_are_refused(texts, tmp_path):
  with pytest.raises(FileNotFoundError):
    _read(texts, documents="names.txt")
  with pytest.raises(FileNotFoundError, match="it needs"):
    _read(tmp_path)
  for label, lines in LINES.items():
    _write(tmp_path / f"text.{label}.txt.gz", lines)
  (tmp_path / "documents.txt").write_text("a\nb\n")
  with pytest.raises(ValueError, match="2 lines, the texts have 5"):
    _read(tmp_path)
  _write(tmp_path / "text.kor.txt.gz", LINES["kor"][:-1])
  with pytest.raises(ValueError, match="4 lines, English 5"):
    _read(tmp_path)


def test_shares_must_sum_to_one_before_anything_is_read(tmp_path):
  with pytest.raises(ValueError, match="sum to 1"):
    _make(tmp_path, shares={**SHARES, "right": 0.5})
