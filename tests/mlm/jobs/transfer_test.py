"""The jobs of reward transfer, end to end on tiny models."""

import itertools
import json

import numpy as np
import pytest

from mlm.data import prompts
from mlm.instructions import records
from mlm.jobs import (
  compare,
  judges,
  responses,
  reward_sources,
  transfer,
  translate_preferences,
)
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import load

TARGETS = ("eng_Latn", "rus_Cyrl")
NUM_SAMPLES = 3


def _transfer(aligned, output, **changes):
  output.mkdir(exist_ok=True)
  rewards = aligned.reward_models
  settings = {
    "tokenizer": aligned.tokenizer,
    "policies": dict.fromkeys(TARGETS, aligned.base),
    "prompts": aligned.prompts,
    "grids": {
      "transfer": {code: rewards[code] for code in TARGETS},
      "translate-train": {"eng_Latn": {"rus_Cyrl": rewards["all"]}},
      "bilingual": {"eng_Latn+rus_Cyrl": rewards["all"]},
      "implicit": {"eng_Latn": aligned.dpo},
    },
    "dpo_reference": aligned.base,
    "runs": {},
    "judge": judges.second_identifier(tokenizer=aligned.tokenizer, margin=0.01),
    "output": str(output),
    "tasks": None,
    "cluster_field": "source_url",
    "mesh_shape": aligned.mesh,
    "num_samples": NUM_SAMPLES,
    "batch_size": 8,
    "max_prompts": 4,
    "temperature": 1.0,
    "seed": 1,
    "num_resamples": 100,
    "confidence": 0.95,
    **aligned.lengths,
  }
  transfer.transfer(**{**settings, **changes})
  return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def transferred(aligned, tmp_path_factory):
  """(output, results), with a compare run as the cell of a trained policy."""
  folder = tmp_path_factory.mktemp("transfer")
  (folder / "run").mkdir()
  compare.compare(
    tokenizer=aligned.tokenizer,
    a=aligned.rloo,
    b=aligned.base,
    prompts=aligned.prompts,
    output=str(folder / "run"),
    tasks=None,
    cluster_field="source_url",
    judge=judges.second_identifier(tokenizer=aligned.tokenizer, margin=0.01),
    seen_languages=None,
    mesh_shape=aligned.mesh,
    batch_size=8,
    max_prompts=16,
    samples_per_prompt=1,
    temperature=1.0,
    seed=1,
    num_resamples=100,
    confidence=0.95,
    **aligned.lengths,
  )
  runs = {"rloo": {"eng_Latn": {"rus_Cyrl": str(folder / "run")}}}
  return folder / "out", _transfer(aligned, folder / "out", runs=runs)


def test_every_cell_is_filled_and_beside_the_published_ones(transferred):
  output, results = transferred
  cells = {(r["grid"], r["source"], r["target"]) for r in results["cells"]}
  assert cells == {
    *(("transfer", s, t) for s, t in itertools.product(TARGETS, TARGETS)),
    ("translate-train", "eng_Latn", "rus_Cyrl"),
    *(("bilingual", "eng_Latn+rus_Cyrl", t) for t in TARGETS),
    *(("implicit", "eng_Latn", t) for t in TARGETS),
    ("rloo", "eng_Latn", "rus_Cyrl"),
  }
  means = {row["name"]: row for row in results["means"]}
  assert means["transfer: off-diagonal"]["cells"] == 2
  assert means["bilingual: diagonal"]["cells"] == 2
  assert "rloo − transfer: off-diagonal" in means
  assert results["control"]["prompts"] == 8
  page = (output / "transfer.html").read_text()
  assert page.count("<svg") == 3
  assert "Table 17" in page and "58.8" in page


def test_the_trained_policys_cell_is_that_of_its_run(transferred):
  output, results = transferred
  run = json.loads((output.parent / "run" / "results.json").read_text())
  row = run["win_rate"]["by_language"]["rus_Cyrl"]
  cell = next(r for r in results["cells"] if r["grid"] == "rloo")
  assert cell["win_rate"] == pytest.approx(row["win"] + row["tie"] / 2)


def test_a_reward_chooses_its_best_sample(transferred, aligned):
  """The scores kept are those of the reward, taken one response at a time."""
  output, _ = transferred
  mesh = mesh_lib.make_mesh(aligned.mesh)
  score = reward_sources.open_reward(
    aligned.reward_models["rus_Cyrl"],
    dpo_reference="",
    mesh=mesh,
    tokenizer=aligned.tokenizer,
    response_length=aligned.lengths["response_length"],
  ).raw_score
  samples = np.load(output / "samples" / "eng_Latn.npz")["values"]
  kept = np.load(output / "scores" / "transfer.rus_Cyrl.eng_Latn.npz")["values"]
  rows = [
    r
    for r in records.read_records(aligned.prompts)
    if r["language"] == "eng_Latn"
  ]
  assert samples.shape[:2] == (4, NUM_SAMPLES + 1)
  processor = load.load(aligned.tokenizer)
  left = prompts.prompt_rows(
    [prompts.prompt_ids(processor, r["prompt"]) for r in rows],
    prompt_length=aligned.lengths["prompt_length"],
  )
  for i in range(NUM_SAMPLES):
    one = np.concatenate([left, samples[:, i]], axis=1)
    np.testing.assert_allclose(
      score(np.tile(one, (2, 1)))[:4], kept[:, i], atol=1e-5
    )
  verdicts = records.read_records(output / "verdicts.jsonl")
  assert len(verdicts) == 4 * (2 + 4 + 1 + 2 + 2)


def test_an_implicit_reward_needs_the_reference_that_dpo_began_with(aligned):
  settings = {
    "mesh": mesh_lib.make_mesh(aligned.mesh),
    "tokenizer": aligned.tokenizer,
    "response_length": aligned.lengths["response_length"],
  }
  with pytest.raises(ValueError, match="give that as DPO_REFERENCE"):
    reward_sources.open_reward(aligned.dpo, dpo_reference="", **settings)
  with pytest.raises(ValueError, match="another fingerprint"):
    reward_sources.open_reward(
      aligned.dpo, dpo_reference=aligned.rloo, **settings
    )


def test_samples_and_scores_are_kept_and_other_settings_refused(
  transferred, aligned, monkeypatch
):
  output, results = transferred
  (output / "results.json").unlink()

  def refuse(*_, **__):
    raise AssertionError("made again")

  monkeypatch.setattr(reward_sources, "open_reward", refuse)
  monkeypatch.setattr(responses, "sample", refuse)
  runs = {"rloo": {"eng_Latn": {"rus_Cyrl": str(output.parent / "run")}}}
  assert _transfer(aligned, output, runs=runs) == results
  (output / "results.json").unlink()
  with pytest.raises(ValueError, match="other settings or prompts"):
    _transfer(aligned, output, runs=runs, seed=2)
  (output / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"grids": {}}, "name no reward"),
    ({"grids": {"transfer": {"english": "DIR"}}}, "english"),
    ({"policies": {"amh_Ethi": "DIR"}}, "no prompts in amh_Ethi"),
    ({"temperature": 0.0}, "samples that differ"),
  ],
)
def test_mistakes_are_told_before_any_work(aligned, tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    _transfer(aligned, tmp_path / "bad", **change)


def test_a_reward_may_not_judge_its_own_choices(aligned, tmp_path):
  judge = judges.held_out_reward_model(
    directory=aligned.reward_models["rus_Cyrl"],
    tokenizer=aligned.tokenizer,
    batch_size=8,
    margin=0.0,
    **aligned.lengths,
  )
  with pytest.raises(ValueError, match="of the reward .*rus_Cyrl: a reward"):
    _transfer(aligned, tmp_path / "own", judge=judge)


def test_runs_of_another_judge_are_refused(transferred, aligned, tmp_path):
  output, _ = transferred
  runs = {"rloo": {"eng_Latn": {"rus_Cyrl": str(output.parent / "run")}}}
  judge = judges.through_files(seed=0)
  with pytest.raises(ValueError, match="not by people: a matrix needs one"):
    _transfer(aligned, tmp_path / "other", runs=runs, judge=judge)


def test_pairs_are_written_in_the_words_of_the_target(aligned, tmp_path):
  source = tmp_path / "preferences"
  source.mkdir()
  written = [
    {
      "id": code,
      "language": code,
      "prompt": "one" if code != "tha_Thai" else ["one", "two", "three"],
      "chosen": f"good {code}",
      "rejected": f"bad {code}",
      "source": "made for this test",
    }
    for code in (*aligned.languages, "hin_Deva")
  ]
  for split in ("train", "validation"):
    records.write_records(source / f"{split}.jsonl", written)

  def translator(texts, code, target):
    assert target == "hin_Deva"
    return [f"{code}: {text}" for text in texts]

  translate_preferences.translate_preferences(
    preferences_dir=str(source),
    translator=translator,
    target="hin_Deva",
    output=str(tmp_path / "out"),
  )
  pairs = records.read_records(tmp_path / "out" / "train.jsonl")
  assert {p["id"] for p in pairs} == set(aligned.languages)
  of = {p["id"]: p for p in written}
  for pair in pairs:
    before = of[pair["id"]]
    assert pair["language"] == "hin_Deva"
    code = pair["translated_from"]
    assert code == before["language"]
    for field in ("chosen", "rejected"):
      assert pair[field] == f"{code}: {before[field]}"
  prompts_of = {p["id"]: p["prompt"] for p in pairs}
  assert prompts_of["eng_Latn"] == "eng_Latn: one"
  assert prompts_of["tha_Thai"] == [
    f"tha_Thai: {turn}" for turn in ("one", "two", "three")
  ]
