"""Jobs that train adapters over the model of an earlier job."""

import importlib.util
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mlm.checkpoints import manager
from mlm.jobs import models
from mlm.languages import registry
from mlm.models import adapters as adapters_lib
from mlm.sharding import mesh as mesh_lib

SCRIPT = pathlib.Path(__file__).with_name("small_pretrain.py")
MESH = {"data": 2, "fsdp": 2, "tensor": 2}
LORA = adapters_lib.AdapterConfig(
  lora=adapters_lib.LoraConfig(
    patterns=("layers/attention/*", "layers/mlp/*"), rank=2, alpha=4.0
  ),
  language=None,
  task_width=None,
)
LANGUAGES = adapters_lib.AdapterConfig(
  lora=None,
  language=adapters_lib.LanguageConfig(
    language_ids=registry.indices(["hin_Deva", "tha_Thai"]),
    width=4,
    invertible_width=2,
  ),
  task_width=None,
)
TASK = adapters_lib.AdapterConfig(lora=None, language=None, task_width=4)


def _load():
  spec = importlib.util.spec_from_file_location("small_pretrain", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


job = _load()
PHASES = [(0, job.shares(0.4, 0.3, 0.2, 0.1))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("adapters")
  job.make_data(folder)
  return folder


@pytest.fixture(scope="module")
def run(data):
  """The directory of what was trained, made once for each name."""

  def run(name, initial=None, adapters=None):
    output = data / name
    job.pretrain(
      data,
      output,
      phases=PHASES,
      mesh_shape=MESH,
      initial=initial,
      adapters=adapters,
    )
    return output

  return run


@pytest.fixture(scope="module")
def base(run):
  return run("base")


@pytest.fixture(scope="module")
def lora(run, base):
  return run("lora", base, LORA)


@pytest.fixture(scope="module")
def languages(run, base):
  return run("languages", base, LANGUAGES)


def _open(output):
  mesh = mesh_lib.make_mesh(MESH)
  return models.open_model(str(output), mesh=mesh, metadata={})


def _batch(code):
  rng = np.random.default_rng(0)
  tokens = rng.integers(261, 309, (8, 16)).astype(np.int32)
  ones = np.ones_like(tokens)
  return {
    "decoder_input_tokens": tokens,
    "decoder_positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
    "decoder_segment_ids": ones,
    "decoder_language_ids": registry.index(code) * ones,
  }


def _hidden(opened, code):
  outputs = jax.jit(opened.model.apply)(opened.params, _batch(code))
  return np.asarray(outputs["hidden"])


def test_lora_is_all_that_is_kept_and_is_merged_when_opened(lora, base):
  opened = _open(lora)
  assert opened.adapters is None
  before, after = _open(base).params, opened.params
  assert jax.tree.structure(before) == jax.tree.structure(after)
  changed = jax.tree.map(lambda x, y: bool((x != y).any()), before, after)
  assert all(jax.tree.leaves(changed["layers"]["attention"]))
  assert all(jax.tree.leaves(changed["layers"]["mlp"]))
  assert not changed["embedding"]
  stored = manager.read_metadata(models.checkpoints_of(str(lora)))
  assert adapters_lib.config_of(stored["adapters"]) == LORA


def test_tokens_of_other_languages_pass_as_in_the_model_below(base, languages):
  below, above = _open(base), _open(languages)
  assert above.adapters == LANGUAGES
  np.testing.assert_array_equal(
    _hidden(below, "yor_Latn"), _hidden(above, "yor_Latn")
  )
  for code in ("hin_Deva", "tha_Thai"):
    assert np.abs(_hidden(below, code) - _hidden(above, code)).max() > 1e-3


def test_a_task_adapter_over_language_adapters_leaves_them(run, languages):
  below, above = _open(languages), _open(run("task", languages, TASK))
  assert above.adapters == adapters_lib.joined(LANGUAGES, TASK)
  adapters = above.params["adapters"]
  task = adapters["layers"].pop("task")
  assert np.abs(np.asarray(task["up"])).max() > 0
  jax.tree.map(
    np.testing.assert_array_equal,
    {"base": above.params["base"], "adapters": adapters},
    below.params,
  )


def test_killed_adapters_go_on_bit_for_bit(run, base, lora, data):
  cut = data / "cut"
  shutil.copytree(lora, cut)
  steps = sorted(int(p.name) for p in (cut / "checkpoints").iterdir())
  shutil.rmtree(cut / "checkpoints" / str(steps[-1]))
  run("cut", base, LORA)
  jax.tree.map(
    np.testing.assert_array_equal, _open(lora).params, _open(cut).params
  )


def test_what_does_not_fit_is_refused_with_the_reason(run, base, languages):
  mesh = mesh_lib.make_mesh(MESH)
  with pytest.raises(ValueError, match="set INITIAL"):
    run("nothing", None, LORA)
  with pytest.raises(ValueError, match="already has adapters of the kind"):
    run("again", languages, LANGUAGES)
  with pytest.raises(ValueError, match="or the model below them"):
    run("all", languages)
  with pytest.raises(ValueError, match="this job cannot read"):
    models.open_decoder(
      str(languages), mesh=mesh, tokenizer_sha256=_sha256(base)
    )
  with pytest.raises(ValueError, match="no param; there are"):
    patterns = adapters_lib.LoraConfig(patterns=("x",), rank=1, alpha=1.0)
    run("x", base, adapters_lib.AdapterConfig(patterns, None, None))


def _sha256(output):
  metadata = manager.read_metadata(models.checkpoints_of(str(output)))
  return metadata["tokenizer_sha256"]


def test_adapters_refuse_a_model_that_went_on_without_them(run, base, data):
  moved = data / "moved"
  shutil.copytree(base, moved)
  over = run("over", moved, LORA)
  steps = sorted(int(p.name) for p in (moved / "checkpoints").iterdir())
  shutil.rmtree(moved / "checkpoints" / str(steps[-1]))
  with pytest.raises(ValueError, match=f"now at step {steps[-2]}"):
    _open(over)
  shutil.rmtree(moved)
  with pytest.raises(FileNotFoundError, match="no checkpoint any more"):
    _open(over)
