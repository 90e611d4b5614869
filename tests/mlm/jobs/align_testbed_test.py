"""The testbed in small: it runs, resumes, and its two brakes hold."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from mlm.alignment import rewards, stop_rules
from mlm.alignment.testbed import annotators, artificial, experiment
from mlm.alignment.testbed import optimizer as optimizer_lib
from mlm.alignment.testbed import settings as settings_lib
from mlm.alignment.testbed import stages as stages_lib
from mlm.jobs import align_testbed
from mlm.sharding import mesh as mesh_lib
from tests import tiny_models

MESH = {"data": 8, "fsdp": 1, "tensor": 1}
TASK = artificial.make_task(
  num_languages=3,
  num_concepts=5,
  shares={
    "right": 0.35,
    "wrong_language": 0.25,
    "wrong_operation": 0.2,
    "truncated": 0.2,
  },
  wrong_language=artificial.english,
)
MODEL = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=TASK.vocab_size,
  num_layers=1,
  d_model=32,
  d_ff=64,
)


def _mixture(num_languages, annotator=annotators.gold, rloo_reward="learned"):
  return settings_lib.Mixture(
    languages=TASK.languages[:num_languages],
    annotator=annotator,
    label_scale=3.0,
    rloo_reward=rloo_reward,
  )


SETTINGS = settings_lib.Settings(
  mixtures={"EN-1": _mixture(1), "ML-2": _mixture(2)},
  sft_steps=150,
  sft_batch=64,
  sft_rate=1e-2,
  pool_prompts=64,
  reward_steps=20,
  reward_rate=1e-3,
  reward_centering=0.01,
  reward_pairs_per_step=16,
  pairs_per_step=40,
  dpo_steps=16,
  dpo_rates=[3e-3],
  dpo_beta=0.1,
  rloo_steps=40,
  rloo_rates=[3e-3],
  rloo_beta=0.0,
  prompts_per_step=8,
  samples_per_prompt=4,
  frontier_mixture=None,
  frontier_rate=1e-3,
  dpo_betas=[],
  rloo_betas=[],
  transfer=None,
  evaluation_prompts=32,
  evaluation_samples=2,
  opponent_samples=2,
  control_samples=2,
  confidence=0.95,
  chance_gate="record",
  stop_rule=stop_rules.Rule(
    window=5, max_fall=0.02, confidence=0.95, min_prompts=8
  ),
  on_hacking="stop",
  rows_at_once=32,
)


def _mesh():
  """Of one device, which compiles fastest."""
  shape = {"data": 1, "fsdp": 1, "tensor": 1}
  return mesh_lib.make_mesh(shape, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
  """Compiled once, and fine-tuned once."""
  made = stages_lib.make_stages(
    task=TASK,
    config=MODEL,
    optimizer=optimizer_lib.adamw_cosine,
    settings=SETTINGS,
    mesh=_mesh(),
  )
  tuned = functools.cache(lambda seed: made.finetune(seed, str(folder)))
  folder = tmp_path_factory.mktemp("sft")
  return made._replace(finetune=lambda seed, output: tuned(seed))


def _run(stages, tmp_path, task=TASK, **changes):
  return experiment.run_seed(
    0,
    task=task,
    stages=stages,
    settings=dataclasses.replace(SETTINGS, **changes),
    output=str(tmp_path),
    tell=lambda line: None,
  )


def _mean_and_error(scores):
  by_prompt = scores.mean(axis=(0, 2))
  return by_prompt.mean(), by_prompt.std(ddof=1) / math.sqrt(len(by_prompt))


def test_rloo_on_the_hidden_score_raises_it(stages, tmp_path):
  mixtures = {"ML-3": _mixture(3, rloo_reward="gold")}
  summary, scores = _run(stages, tmp_path, mixtures=mixtures)
  (name,) = (n for n in summary["mixtures"]["ML-3"]["trials"] if "rloo" in n)
  trial = summary["mixtures"]["ML-3"]["trials"][name]
  assert trial["stop_rule"] == []
  assert min(trial["kl"].values()) > 0
  before, error = _mean_and_error(scores["test/opponent"])
  after, error_after = _mean_and_error(scores[f"test/{name}"])
  assert after - before > 5 * math.hypot(error, error_after)
  assert scores[f"test/{name}"].shape == (3, 32, 2)


def test_hacking_is_stopped_and_a_reward_model_at_chance_refused(
  stages, tmp_path
):
  def longer(prompts, responses):
    return (responses != 0).sum(axis=1).astype(np.float32)

  planted = TASK._replace(gold=longer)
  mixtures = {"EN-1": _mixture(1, rloo_reward="gold")}
  summary, _ = _run(stages, tmp_path / "a", task=planted, mixtures=mixtures)
  trials = summary["mixtures"]["EN-1"]["trials"]
  (said,) = (t["stop_rule"] for t in trials.values() if t["method"] == "rloo")
  assert len(said) == 1 and said[0]["step"] < 39
  assert "verifiable reward" in said[0]["told"]["together"]
  summary, scores = _run(
    stages,
    tmp_path / "b",
    mixtures={"EN-1": _mixture(1, annotators.random)},
    chance_gate="refuse",
  )
  of_mixture = summary["mixtures"]["EN-1"]
  assert set(of_mixture["gate"]) == set(TASK.languages[:1])
  refused = [t for t in of_mixture["trials"].values() if "refused" in t]
  assert [t["method"] for t in refused] == ["rloo"]
  assert not any("rloo" in name for name in scores)


def test_the_job_leaves_what_is_done_and_makes_the_same_again(
  stages, tmp_path, monkeypatch
):
  monkeypatch.setattr(stages_lib, "make_stages", lambda **_: stages)
  transfer = settings_lib.Transfer(
    languages=TASK.languages[1:],
    annotator=annotators.gold,
    label_scale=3.0,
    num_samples=5,
    num_opponents=2,
  )

  def run():
    align_testbed.align_testbed(
      task=TASK,
      model=MODEL,
      optimizer=optimizer_lib.adamw_cosine,
      settings=dataclasses.replace(SETTINGS, transfer=transfer),
      seeds=[0],
      mesh_shape=MESH,
      num_resamples=50,
      output=str(tmp_path),
    )
    with np.load(tmp_path / "seed_0.npz") as scores:
      return dict(scores), (tmp_path / "seed_0.json").read_text()

  scores, summary = run()
  done = (tmp_path / "seed_0.json").stat().st_mtime_ns
  run()
  assert (tmp_path / "seed_0.json").stat().st_mtime_ns == done
  (tmp_path / "seed_0.json").unlink()  # as if it had been killed before
  again, summary_again = run()
  assert summary == summary_again
  for name in scores:
    np.testing.assert_array_equal(scores[name], again[name])
  header, *rows = (tmp_path / "trials.tsv").read_text().splitlines()
  for row in rows:
    cells = dict(zip(header.split("\t"), row.split("\t")))
    shares = [float(cells[name]) for name in ("win", "loss", "tie")]
    assert sum(shares) == pytest.approx(100, abs=0.1)
  # 3 languages and 2 groups of the control, 3 groups of the 2 + 2 trials.
  assert len(rows) == 5 + 4 * 6
  assert scores["transfer/gold"].shape == (2, 32, 7)
  for source in transfer.languages:
    assert scores[f"transfer/{source}"].shape == (2, 32, 5)
  # 2 x 2 cells for the best of 4 and of all 5.
  assert len((tmp_path / "transfer.tsv").read_text().splitlines()) == 1 + 8
  for name in ("outcomes", "accuracy", "frontier", "transfer"):
    assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")


def test_betas_vary_in_one_mixture_and_no_trial_is_made_twice():
  settings = dataclasses.replace(
    SETTINGS,
    frontier_mixture="ML-2",
    frontier_rate=3e-3,
    dpo_betas=[0.1, 1.0],
    rloo_betas=[1.0],
  )
  assert [t.name for t in settings.trials("EN-1")] == [
    "EN-1.dpo.0.003.0.1",
    "EN-1.rloo.0.003.0",
  ]
  assert [(t.method, t.beta) for t in settings.trials("ML-2")] == [
    ("dpo", 0.1),
    ("rloo", 0.0),
    ("dpo", 1.0),
    ("rloo", 1.0),
  ]


def test_unequal_data_and_unknown_choices_are_refused():
  with pytest.raises(ValueError, match="responses"):
    dataclasses.replace(SETTINGS, dpo_steps=17)
  with pytest.raises(ValueError, match="as many trials"):
    dataclasses.replace(SETTINGS, dpo_rates=[1e-3, 1e-4])
  with pytest.raises(ValueError, match="chance_gate"):
    dataclasses.replace(SETTINGS, chance_gate="warn")
  with pytest.raises(ValueError, match="frontier_mixture"):
    dataclasses.replace(SETTINGS, frontier_mixture="ML-9")


def test_another_vocabulary_is_refused():
  with pytest.raises(ValueError, match="VOCAB_SIZE"):
    stages_lib.make_stages(
      task=TASK,
      config=dataclasses.replace(MODEL, vocab_size=8),
      optimizer=optimizer_lib.adamw_cosine,
      settings=SETTINGS,
      mesh=_mesh(),
    )


def test_what_is_verified_are_the_parts_of_rewards():
  responses = np.zeros((1, TASK.response_length), np.int32)
  prompts = TASK.prompts("test", np.random.default_rng(0), 1)[0]
  assert set(TASK.verify(prompts, responses)) == set(rewards.PARTS)
