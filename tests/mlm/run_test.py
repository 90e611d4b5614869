"""The launcher: mistakes are one-line errors before any work."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from mlm import run
from mlm.alignment import reward_model
from mlm.languages import registry

ROOT = pathlib.Path(__file__).parents[2]
TOKENIZER_GIN = "gin/experiments/quickstart/train_tokenizer.gin"
EXPERIMENTS = sorted((ROOT / "gin" / "experiments").rglob("*.gin"))


@pytest.fixture(autouse=True)
def _repository_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def _error(capsys, *arguments):
  assert run.main(arguments) == 2
  message = capsys.readouterr().err.strip()
  assert len(message.split("\n")) == 1
  return message


def _tokenizer_arguments(tmp_path):
  return (
    "train_tokenizer",
    f"--gin_file={TOKENIZER_GIN}",
    f"--gin.CORPUS={tmp_path / 'corpus'}",
    f"--gin.OUTPUT={tmp_path / 'tokenizer'}",
  )


def test_help_lists_every_job_without_importing_one():
  command = "import sys; from mlm import run; run.main(['--help']); print([m for m in ('jax', 'tensorflow', 'gin', 'seqio') if m in sys.modules])"
  result = subprocess.run(
    [sys.executable, "-c", command], capture_output=True, text=True, cwd=ROOT
  )
  assert result.stdout.rstrip().endswith("[]")
  for job in ("train_tokenizer", "pretrain", "finetune", "align_rloo"):
    assert f"  {job}" in result.stdout


def test_an_unknown_job_suggests_the_nearest(capsys):
  assert "did you mean 'pretrain'" in _error(capsys, "pretain")


def test_a_missing_file_and_a_missing_include_are_errors(capsys, tmp_path):
  assert "does not exist" in _error(capsys, "pretrain", "--gin_file=no.gin")
  (tmp_path / "a.gin").write_text("include 'gin/models/no_such.gin'\n")
  message = _error(capsys, "pretrain", f"--gin_file={tmp_path / 'a.gin'}")
  assert "no_such.gin" in message


def test_a_misspelt_macro_is_an_error(capsys, tmp_path):
  message = _error(capsys, *_tokenizer_arguments(tmp_path), "--gin.SEEED=1")
  assert "'SEEED'" in message and "did you mean 'SEED'" in message


def test_a_misspelt_parameter_is_an_error(capsys, tmp_path):
  message = _error(
    capsys,
    *_tokenizer_arguments(tmp_path),
    "--gin.train_tokenizer.train_tokenizer.vocabsize=1",
  )
  assert "vocabsize" in message


def test_an_unset_argument_is_named(capsys):
  message = _error(capsys, "train_tokenizer", f"--gin_file={TOKENIZER_GIN}")
  assert "CORPUS" in message or "corpus" in message


def test_a_wrong_type_is_an_error(capsys, tmp_path):
  message = _error(
    capsys, *_tokenizer_arguments(tmp_path), "--gin.VOCAB_SIZE=4k"
  )
  assert "must be int, got '4k'" in message


def test_unknown_options_are_errors(capsys):
  assert "unknown option" in _error(capsys, "pretrain", "--steps=3")


def test_jobs_of_one_process_refuse_to_be_one_of_several(capsys, monkeypatch):
  message = _error(capsys, "align_rloo", "--distributed")
  assert "'align_rloo' runs in one process" in message
  assert "only pretrain and finetune run in more" in message
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
  assert "runs in one process" in _error(capsys, "evaluate")
  assert "each process needs all" in _error(capsys, "pretrain")


def test_a_failing_job_leaves_its_operative_config(capsys, tmp_path):
  message = _error(capsys, *_tokenizer_arguments(tmp_path))
  assert "corpus" in message
  config = (tmp_path / "tokenizer" / "config.gin").read_text()
  assert "VOCAB_SIZE = 4096" in config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_resolves(path, tmp_path):
  text = path.read_text()
  required = text.split("# Required macros:")[1].split("\n")[0]
  names = re.findall(r"\b[A-Z_]{3,}\b", required)
  bindings = dict.fromkeys(names, str(tmp_path))
  if "TRUTH" in required:
    bindings["TRUTH"] = "''"
  function, kwargs, config = run.resolve(
    path.stem, [str(path.relative_to(ROOT))], bindings
  )
  assert function.__name__ == path.stem
  assert kwargs["output"] == str(tmp_path)
  assert "OUTPUT" in config


@pytest.mark.parametrize(
  "overlay, starts", [("unimax", [0]), ("two_phases", [0, 600])]
)
def test_mixture_overlays_resolve_over_pretrain(overlay, starts, tmp_path):
  names = ("TOKENS", "TOKENIZER", "OUTPUT")
  bindings = dict.fromkeys(names, str(tmp_path))
  if overlay == "two_phases":
    bindings["CHANGE_STEP"] = "600"
  files = [
    "gin/experiments/quickstart/pretrain.gin",
    f"gin/data/{overlay}.gin",
  ]
  _, kwargs, _ = run.resolve("pretrain", files, bindings)
  assert [start for start, _ in kwargs["phases"]] == starts
  counts = {
    "eng_Latn": {"tokens": 9000},
    "swh_Latn": {"tokens": 900},
    "hin_Deva": {"tokens": 90},
  }
  drawn = dict.fromkeys(counts, 0.0)
  amounts = [s(counts, "tokens", 300, drawn)[0] for _, s in kwargs["phases"]]
  if overlay == "two_phases":  # 10^(1/T) between neighbours, T = 10/3 then 10
    for of, ratio in zip(amounts, (10**0.3, 10**0.1)):
      assert of["eng_Latn"] / of["swh_Latn"] == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize(
  "job, data", [("pretrain", "TOKENS"), ("finetune", "EXAMPLES")]
)
@pytest.mark.parametrize("overlay", ["lora", "language", "task"])
def test_adapter_overlays_resolve_over_both_jobs(job, data, overlay, tmp_path):
  names = (data, "TOKENIZER", "INITIAL", "OUTPUT")
  bindings = dict.fromkeys(names, str(tmp_path))
  if overlay == "language":
    bindings["LANGUAGES"] = "['swh_Latn', 'hin_Deva']"
  files = [
    f"gin/experiments/quickstart/{job}.gin",
    f"gin/adapters/{overlay}.gin",
  ]
  _, kwargs, _ = run.resolve(job, files, bindings)
  field = "task_width" if overlay == "task" else overlay
  given = {name: of for name, of in vars(kwargs["adapters"]).items() if of}
  assert list(given) == [field]
  if overlay == "language":
    ids = registry.index("swh_Latn"), registry.index("hin_Deva")
    assert given[field].language_ids == ids


def test_a_pointwise_reward_model_resolves(tmp_path):
  names = ("TOKENIZER", "INITIAL", "PREFERENCES", "OUTPUT")
  files = [
    "gin/experiments/quickstart/train_reward_model.gin",
    "gin/alignment/pointwise_reward.gin",
  ]
  bindings = dict.fromkeys(names, str(tmp_path))
  _, kwargs, _ = run.resolve("train_reward_model", files, bindings)
  assert kwargs["make_loss"] is reward_model.pointwise_loss


# baseline, kl_in, kl_coefficient, ratio, clip, average
POLICY_GRADIENTS = {
  "rloo": ("siblings", "reward", 0.03, "none", None, "sequences"),
  "rloo_trl": ("siblings", "reward", 0.05, "sequence", 0.2, "sequences"),
  "rloo_openrlhf": ("siblings", "token_reward", 0.01, "token", 0.2, "tokens"),
  "rloo_verl": ("siblings", "reward", 0.001, "token", 0.2, "tokens"),
  "rloo_tunix": ("siblings", "loss", 0.04, "token", 0.2, "token_means"),
  "reinforce": ("moving_average", "reward", 0.03, "none", None, "sequences"),
}


@pytest.mark.parametrize("overlay", POLICY_GRADIENTS)
def test_policy_gradient_overlays_are_what_their_libraries_do(
  overlay, tmp_path
):
  names = ("TOKENIZER", "INITIAL", "REWARD_MODEL", "RECORDS", "OUTPUT")
  files = [
    "gin/experiments/quickstart/align_rloo.gin",
    f"gin/alignment/{overlay}.gin",
  ]
  bindings = dict.fromkeys(names, str(tmp_path))
  _, kwargs, _ = run.resolve("align_rloo", files, bindings)
  found = kwargs["estimator"]
  assert (found.kl_estimator, found.advantage_scale) == ("k1", "none")
  assert (
    found.baseline,
    found.kl_in,
    found.kl_coefficient,
    found.ratio,
    found.clip,
    found.average,
  ) == POLICY_GRADIENTS[overlay]


@pytest.mark.parametrize(
  "overlay, method", [("budgeted", "Budgeted"), ("balanced", "Balanced")]
)
def test_vocabulary_overlays_resolve_over_train_tokenizer(
  overlay, method, tmp_path
):
  bindings = dict.fromkeys(("CORPUS", "OUTPUT"), str(tmp_path))
  if overlay == "balanced":
    bindings["PARALLEL"] = str(tmp_path)
  files = [TOKENIZER_GIN, f"gin/data/{overlay}_vocabulary.gin"]
  _, kwargs, _ = run.resolve("train_tokenizer", files, bindings)
  assert type(kwargs["division"]).__name__ == method


@pytest.mark.parametrize(
  "overlays, objective",
  [([], "span_corruption"), (["gin/data/ul2.gin"], "ul2_encoder_decoder")],
)
def test_objectives_of_a_small_mt5_resolve(overlays, objective, tmp_path):
  bindings = dict.fromkeys(("TOKENS", "TOKENIZER", "OUTPUT"), str(tmp_path))
  files = ["gin/experiments/mt5_tiny/pretrain.gin", *overlays]
  _, kwargs, _ = run.resolve("pretrain", files, bindings)
  found = kwargs["objective"]
  assert found.settings["objective"] == objective
  assert found.extra_ids.stop == kwargs["model"].vocab_size == 4224


OPTIMIZERS = ("adamw_skipping_spikes", "adafactor", "muon")


@pytest.mark.parametrize(
  "job, data", [("pretrain", "TOKENS"), ("finetune", "EXAMPLES")]
)
@pytest.mark.parametrize("overlay", OPTIMIZERS)
def test_optimizer_and_schedule_overlays_resolve(job, data, overlay, tmp_path):
  names = (data, "TOKENIZER", "INITIAL", "OUTPUT")
  bindings = {**dict.fromkeys(names, str(tmp_path)), "DECAY_STEPS": "30"}
  files = [
    f"gin/experiments/quickstart/{job}.gin",
    f"gin/optimizers/{overlay}.gin",
    "gin/schedules/warmup_stable_decay.gin",
  ]
  _, kwargs, _ = run.resolve(job, files, bindings)
  optimizer = kwargs["optimizer"]({"kernel": ("embed", "mlp")})
  state = jax.eval_shape(optimizer.init, {"kernel": np.zeros((256, 128))})
  sizes = {"adafactor": 256 + 128, "muon": 256 * 128}
  found = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
  # Adam's two moments, and 128 norms; Muon's coefficients are three numbers.
  expected = sizes.get(overlay, 2 * 256 * 128 + 128)
  assert found - expected in (0, 3)
  peak = optimizer.learning_rate(50)
  steps = {"pretrain": 800, "finetune": 150}[job]
  assert optimizer.learning_rate(steps - 31) == peak
  assert optimizer.learning_rate(steps) == pytest.approx(0.1 * peak)


def test_rows_of_an_encoder_decoder_have_two_lengths(tmp_path):
  names = ("EXAMPLES", "TOKENIZER", "INITIAL", "OUTPUT")
  bindings = dict.fromkeys(names, str(tmp_path))
  bindings["SEQUENCE_LENGTH"] = "{'inputs': 256, 'targets': 128}"
  files = ["gin/experiments/quickstart/finetune.gin"]
  _, kwargs, config = run.resolve("finetune", files, bindings)
  assert kwargs["sequence_length"] == {"inputs": 256, "targets": 128}
  assert "{'inputs': 256, 'targets': 128}" in config


def test_loss_overlay_and_weights_of_languages_resolve(tmp_path):
  names = ("EXAMPLES", "TOKENIZER", "INITIAL", "OUTPUT")
  bindings = dict.fromkeys(names, str(tmp_path))
  files = [
    "gin/experiments/quickstart/finetune.gin",
    "gin/losses/per_sequence.gin",
  ]
  batch = {
    "decoder_loss_weights": np.ones((1, 4), np.float32),
    "decoder_segment_ids": np.array([[1, 1, 1, 2]]),
    "decoder_language_ids": np.full((1, 4), registry.index("swh_Latn")),
  }
  _, kwargs, _ = run.resolve(
    "finetune", files, {**bindings, "LANGUAGE_WEIGHTS": "{'swh_Latn': 3.0}"}
  )
  weights = kwargs["make_loss"].keywords["token_weights"](batch)
  np.testing.assert_allclose(weights, [[1, 1, 1, 3]], rtol=1e-6)
  with pytest.raises(run.UsageError, match="swa_Latn"):
    run.resolve(
      "finetune", files, {**bindings, "LANGUAGE_WEIGHTS": "{'swa_Latn': 3.0}"}
    )
  with pytest.raises(run.UsageError, match="label_smoothing 1.5"):
    run.resolve("finetune", files, {**bindings, "LABEL_SMOOTHING": "1.5"})


@pytest.mark.parametrize(
  "dataset", ["hh_rlhf", "trl", "ultrafeedback", "oasst"]
)
def test_readers_of_preferences_resolve(dataset, tmp_path):
  names = ("INPUTS", "SOURCE", "TOKENIZER", "OUTPUT")
  files = [
    "gin/jobs/convert_preferences.gin",
    f"gin/data/preferences_{dataset}.gin",
  ]
  bindings = dict.fromkeys(names, str(tmp_path))
  _, kwargs, _ = run.resolve("convert_preferences", files, bindings)
  with pytest.raises(ValueError, match="turns|prompts|ties|tree"):
    kwargs["reader"]({})


JUDGES = {
  "second_identifier": "py3langid",
  "reward_model": "the reward model in",
  "chat": "some-model at http://judge",
  "people": "people",
}


@pytest.mark.parametrize("job", ["compare", "transfer"])
@pytest.mark.parametrize("judge", JUDGES)
def test_every_judge_resolves_over_the_jobs_that_compare(job, judge, tmp_path):
  own = {
    "compare": {"A": tmp_path, "B": tmp_path},
    "transfer": {"POLICIES": {"eng_Latn": "DIR"}, "GRIDS": {"transfer": {}}},
  }[job]
  bindings = {name: str(value) for name, value in own.items()}
  for name in ("PROMPTS", "TOKENIZER", "OUTPUT"):
    bindings[name] = str(tmp_path)
  if judge == "reward_model":
    bindings["JUDGE_MODEL"] = str(tmp_path)
  if judge == "chat":
    bindings |= {"JUDGE_URL": "http://judge", "JUDGE_MODEL": "some-model"}
  files = [f"gin/jobs/{job}.gin", f"gin/judges/{judge}.gin"]
  _, kwargs, config = run.resolve(job, files, bindings)
  assert JUDGES[judge] in kwargs["judge"].name
  assert kwargs["cluster_field"] == "source_url"
  with pytest.raises(run.UsageError, match="JUDGE"):
    run.resolve(job, files[:1], bindings)


def test_the_job_that_translates_preferences_resolves(tmp_path):
  path = tmp_path / "translations.jsonl"
  path.write_text(
    '{"source": "eng_Latn", "target": "deu_Latn", "text": "a", '
    '"translation": "b"}\n'
  )
  bindings = {
    **dict.fromkeys(("PREFERENCES", "OUTPUT"), str(tmp_path)),
    "TRANSLATIONS": str(path),
    "TARGET": "deu_Latn",
  }
  files = ["gin/jobs/translate_preferences.gin"]
  _, kwargs, _ = run.resolve("translate_preferences", files, bindings)
  assert kwargs["translator"](["a"], "eng_Latn", "deu_Latn") == ["b"]
