"""What a lowered step keeps on a device, by each rule of sharding."""

import math
import pathlib
import re

import jax
import pytest

import gin
from mlm import run as launcher
from mlm.models import backends, decoder
from mlm.planning import chips, lowering, memory
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import optimizers, schedules
from tests.mlm.planning import cases

ROOT = pathlib.Path(__file__).parents[3]
_AXIS_OF_RULE = {
  axis: mesh_axis for axis, mesh_axis in rules.RULES.items() if mesh_axis
}


def _bytes_of_params(mesh_shape):
  """Path -> (logical axes, bytes on one device)."""
  config = cases.config(experts=(16, 2), num_layers=2)
  run = cases.run(
    config,
    topology="v5p:2x2x1",
    mesh={"data": 4 // math.prod(mesh_shape.values()), **mesh_shape},
  )
  model = decoder.build(config, backends=backends.PLAIN)
  params = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.logical_axes()
  shardings = rules.named_shardings(memory.abstract_mesh(run), axes, params)
  of = jax.tree.map(
    lambda param, sharding: 4 * math.prod(sharding.shard_shape(param.shape)),
    params,
    shardings,
  )
  return {
    jax.tree_util.keystr(path): (names, num_bytes)
    for (path, num_bytes), names in zip(
      jax.tree_util.tree_leaves_with_path(of),
      jax.tree.leaves(axes, is_leaf=rules.is_axes),
    )
  }


@pytest.mark.parametrize("axis", sorted(_AXIS_OF_RULE))
def test_a_rule_divides_the_bytes_of_the_params_that_have_its_axis(axis):
  """By the size of its mesh axis; what has no axis on it stays whole."""
  mesh_axis = _AXIS_OF_RULE[axis]
  whole, split = _bytes_of_params({}), _bytes_of_params({mesh_axis: 4})
  has_axis = 0
  for path, (names, num_bytes) in whole.items():
    on_it = any(_AXIS_OF_RULE.get(name) == mesh_axis for name in names)
    assert split[path][1] == num_bytes / (4 if on_it else 1), path
    has_axis += axis in names
  assert has_axis


def test_between_layers_rows_are_split_over_tensor():
  """The inputs kept for the backward pass are [L, B / fsdp, T / tensor, D]."""
  config = cases.config(
    vocab_size=256,
    num_layers=3,
    d_model=32,
    d_ff=64,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    activation_dtype="float32",
  )
  made = lowering.train_step(
    model=config,
    optimizer=optimizers.adamw(
      learning_rate=schedules.constant_with_warmup(peak=1e-3, warmup_steps=1),
      beta1=0.9,
      beta2=0.95,
      epsilon=1e-8,
      weight_decay=0.1,
      max_grad_norm=1.0,
    ),
    mesh=mesh_lib.make_mesh({"data": 1, "fsdp": 2, "tensor": 4}),
    batch_size=4,
    sequence_length=40,
    num_microbatches=1,
    z_loss=1e-4,
    backends=backends.PLAIN,
    head_backend="chunked",
  )
  text = made.step.lower(*made.arguments).compile().as_text()
  assert re.search(r"f32\[3,2,10,32\]", text)
  assert not re.search(r"f32\[3,2,40,32\]", text)


@pytest.mark.parametrize(
  "path",
  sorted((ROOT / "gin" / "hardware").glob("*x*.gin")),
  ids=lambda p: p.stem,
)
def test_a_pods_mesh_fills_the_topology_that_names_its_file(path, monkeypatch):
  monkeypatch.chdir(ROOT)
  name, sizes = path.stem.split("_")[:2]
  topology = f"{name}:{sizes}"
  try:
    _, kwargs, _ = launcher.resolve(
      "compile_tpu",
      [
        "gin/models/llama5_200b.gin",
        str(path.relative_to(ROOT)),
        "gin/jobs/compile_tpu.gin",
      ],
      {"TOPOLOGY": topology, "BATCH_SIZE": "256", "NAME": "n", "OUTPUT": "o"},
    )
  finally:
    gin.clear_config()
  chip = chips.of_topology(topology)
  devices = chips.num_chips(topology) * chip.devices
  assert math.prod(kwargs["mesh_shape"].values()) == devices
