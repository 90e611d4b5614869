"""The family's experiments, from tiny to 200B: one set of rules, all sizes."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

import gin
from mlm import run as launcher
from mlm.languages import sets
from mlm.models import counting, decoder
from mlm.planning import memory, mixture, runs

ROOT = pathlib.Path(__file__).parents[3]
SMALL_PRETRAIN = ROOT / "tests/mlm/jobs/small_pretrain.py"
TOPOLOGIES = {
  "llama5_100m": "v5e:2x4",
  "llama5_1b": "v5p:2x2x4",
  "llama5_8b": "v5p:4x4x4",
  "llama5_200b_100langs": "v5p:8x8x16",
}


@pytest.fixture(autouse=True)
def _gin(monkeypatch):
  monkeypatch.chdir(ROOT)
  yield
  gin.clear_config()


def _pretrain(name, **bindings):
  paths = dict.fromkeys(("TOKENS", "TOKENIZER", "OUTPUT"), "nowhere")
  _, kwargs, config = launcher.resolve(
    "pretrain",
    [f"gin/experiments/{name}/pretrain.gin"],
    {**paths, **bindings},
  )
  return kwargs, config


def _length(kwargs):
  return kwargs["objective"].raw_length


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_size_sees_twenty_tokens_a_parameter_and_fits_its_pod(name):
  kwargs, _ = _pretrain(name)
  tokens = kwargs["num_steps"] * kwargs["batch_size"] * _length(kwargs)
  params = counting.num_params(kwargs["model"])
  assert tokens == pytest.approx(20 * params, rel=1e-3)
  planned = runs.Run(
    name=name,
    model=kwargs["model"],
    topology=TOPOLOGIES[name],
    num_slices=1,
    mesh=kwargs["mesh_shape"],
    batch_size=kwargs["batch_size"],
    sequence_length=_length(kwargs),
    num_microbatches=kwargs["num_microbatches"],
  )
  of = memory.of_run(planned)
  assert of.peak < planned.chip.hbm_bytes / planned.chip.devices
  # At most 4 epochs of a hundred languages' published text are enough.
  sampler = kwargs["phases"][0][1]
  assert len(mixture.plan(sampler, tokens)) == len(sets.HUNDRED) == 100


def test_all_sizes_share_their_rules_and_differ_in_sizes():
  """Lines of the operative configuration that are about neither size nor place."""
  rules = {}
  for name in ("llama5_tiny", *TOPOLOGIES):
    _, config = _pretrain(name)
    rules[name] = {
      line.strip()
      for line in config.splitlines()
      if line.strip().startswith(("optimizers.adamw.", "TEMPERATURE"))
      or "samplers" in line
      or "z_loss" in line
      or "final_fraction" in line
      or "rope" in line
    }
  assert len(rules["llama5_tiny"]) > 8
  assert all(of == rules["llama5_tiny"] for of in rules.values())


def test_the_tiny_size_trains_from_its_own_file(tmp_path):
  """Three steps of the real job on made-up text in four languages."""
  spec = importlib.util.spec_from_file_location("small", SMALL_PRETRAIN)
  small = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(small)
  small.make_data(tmp_path)
  counts_path = tmp_path / "tokenizer" / "token_counts.json"
  counts = json.loads(counts_path.read_text())
  for of in counts.values():
    of["train"]["bytes"] = 4 * of["train"]["tokens"]
  counts_path.write_text(json.dumps(counts))
  arguments = [
    "pretrain",
    "--gin_file=gin/experiments/llama5_tiny/pretrain.gin",
    f"--gin.TOKENS={tmp_path / 'tokens'}",
    f"--gin.TOKENIZER={tmp_path / 'tokenizer'}",
    f"--gin.OUTPUT={tmp_path / 'model'}",
    *("--gin.VOCAB_SIZE=320", "--gin.TRAIN_STEPS=3", "--gin.WARMUP_STEPS=1"),
    *("--gin.SEQUENCE_LENGTH=32", "--gin.LOG_PERIOD=1"),
    "--gin.MESH_SHAPE={'data': 8, 'fsdp': 1, 'tensor': 1}",
  ]
  assert launcher.main(arguments) == 0
  lines = (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(line)["loss"] for line in lines]
  assert len(losses) == 3 and losses[-1] < losses[0]


def _plan():
  return launcher.resolve(
    "plan",
    ["gin/experiments/llama5_200b_100langs/plan.gin"],
    {"OUTPUT": "nowhere"},
  )[1]


def test_the_plan_is_of_the_run_that_pretrain_would_make():
  kwargs, _ = _pretrain("llama5_200b_100langs")
  planned = _plan()
  first = planned["planned"][0]
  assert first.model == kwargs["model"]
  assert first.batch_size == kwargs["batch_size"]
  assert first.sequence_length == _length(kwargs)
  axes = {axis: n for axis, n in kwargs["mesh_shape"].items() if n > 1}
  assert first.mesh == axes
  tokens = kwargs["num_steps"] * first.tokens
  assert planned["budgets"][0] == pytest.approx(tokens, rel=1e-3)


def test_the_plans_mixture_of_experts_is_that_of_its_model_file():
  gin.parse_config(
    [
      "from __gin__ import dynamic_registration",
      "from mlm.models import decoder",
      "include 'gin/models/llama5_moe_200b.gin'",
    ]
  )
  of_file = gin.get_configurable(decoder.DecoderConfig)()
  gin.clear_config()
  models = [run.model for run in _plan()["planned"] if run.model.moe]
  assert models == [of_file]
  assert dataclasses.asdict(models[0])["moe"]["num_experts"] == 128
