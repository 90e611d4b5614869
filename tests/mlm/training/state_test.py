import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from mlm.models import decoder, moe
from mlm.sharding import mesh as mesh_lib
from mlm.training import optimizers, schedules
from mlm.training import state as train_state
from tests import tiny_models

OPTIMIZER = optimizers.adamw(
  learning_rate=schedules.constant_with_warmup(peak=1e-2, warmup_steps=2),
  beta1=0.9,
  beta2=0.95,
  epsilon=1e-8,
  weight_decay=0.1,
  max_grad_norm=1.0,
)(None)


@pytest.fixture
def mesh():
  return mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})


def _specs(tree):
  return jax.tree.map(lambda sharding: sharding.spec, tree)


def test_moments_live_where_their_params_live(tiny_model, mesh):
  abstract = train_state.abstract(init=tiny_model.init, optimizer=OPTIMIZER)
  shardings = train_state.state_shardings(
    mesh, tiny_model.logical_axes(), abstract
  )
  of_params = _specs(shardings.params)
  assert of_params["head"]["kernel"] == PartitionSpec("fsdp", "tensor")
  assert of_params["embedding"] == PartitionSpec("tensor", "fsdp")
  for moment in ("mu", "nu"):
    found = optax.tree.get(shardings.opt_state, moment)
    assert _specs(found) == of_params
  counts = optax.tree.get_all_with_path(shardings.opt_state, "count")
  assert [c.spec for _, c in counts] == [PartitionSpec()] * 2
  assert shardings.step.spec == PartitionSpec()


def test_factored_moments_of_other_shapes_are_replicated(tiny_model, mesh):
  optimizer = optax.adafactor(1e-2, min_dim_size_to_factor=8)
  abstract = train_state.abstract(init=tiny_model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(
    mesh, tiny_model.logical_axes(), abstract
  )
  of_rows = optax.tree.get(shardings.opt_state, "v_row")
  assert of_rows["head"]["kernel"].spec == PartitionSpec()
  state = train_state.create(
    init=tiny_model.init,
    optimizer=optimizer,
    key=jax.random.key(0),
    shardings=shardings,
  )
  assert state.params["head"]["kernel"].sharding.spec == PartitionSpec(
    "fsdp", "tensor"
  )


def test_state_is_born_sharded_and_equal_to_the_unsharded_one(tiny_model, mesh):
  abstract = train_state.abstract(init=tiny_model.init, optimizer=OPTIMIZER)
  shardings = train_state.state_shardings(
    mesh, tiny_model.logical_axes(), abstract
  )
  state = train_state.create(
    init=tiny_model.init,
    optimizer=OPTIMIZER,
    key=jax.random.key(3),
    shardings=shardings,
  )
  kernel = state.params["head"]["kernel"]
  shard_shape = kernel.addressable_shards[0].data.shape
  assert shard_shape == (kernel.shape[0] // 2, kernel.shape[1] // 2)
  assert jax.tree.all(
    jax.tree.map(
      lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim),
      state,
      shardings,
    )
  )
  expected = jax.jit(tiny_model.init)(jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, state.params, expected)
  assert int(state.step) == 0
  assert jax.tree.all(jax.tree.map(lambda x: not jnp.any(x), state.opt_state))


def test_state_around_existing_params_keeps_them(tiny_model, mesh):
  params = tiny_model.init(jax.random.key(5))
  abstract = train_state.abstract(init=tiny_model.init, optimizer=OPTIMIZER)
  state = train_state.from_params(
    params=params,
    optimizer=OPTIMIZER,
    shardings=train_state.state_shardings(
      mesh, tiny_model.logical_axes(), abstract
    ),
  )
  jax.tree.map(np.testing.assert_array_equal, state.params, params)
  assert state.params["embedding"].sharding.spec == PartitionSpec(
    "tensor", "fsdp"
  )


def test_abstract_arrays_know_their_shardings(tiny_model, mesh):
  abstract = train_state.abstract(init=tiny_model.init, optimizer=OPTIMIZER)
  shardings = train_state.state_shardings(
    mesh, tiny_model.logical_axes(), abstract
  )
  placed = train_state.with_shardings(abstract, shardings)
  assert placed.params["embedding"].shape == (32, 16)
  assert jax.tree.map(lambda x: x.sharding, placed) == shardings


MIXTURE = dataclasses.replace(
  tiny_models.DECODER,
  num_heads=16,
  num_kv_heads=8,
  head_dim=2,
  moe=moe.MoEConfig(
    num_experts=8,
    num_experts_per_token=2,
    renormalize=True,
    capacity_factor=None,
    load_balancing_weight=0.01,
    router_z_weight=0.0,
  ),
)


def _bytes_of_a_device(config, *, fsdp=1, tensor=1, expert=1, **others):
  """The arithmetic: float32 params and two moments, and three counts."""
  assert set(others) <= {"data", "sequence"}  # which split no params
  V, L, D, F = config.vocab_size, config.num_layers, config.d_model, config.d_ff
  N, K, H = config.num_heads, config.num_kv_heads, config.head_dim
  heads = D * (2 * N + 2 * K) * H / (fsdp * tensor)
  norms = 2 * D / fsdp
  if config.moe is None:
    mlp = 3 * D * F / (fsdp * tensor)
  else:
    E = config.moe.num_experts
    router = D * E / (fsdp * expert)
    mlp = router + 3 * E * D * F / (fsdp * tensor * expert)
  tables = 2 * V * D / (fsdp * tensor)
  num_params = tables + D / fsdp + L * (heads + norms + mlp)
  return 4 * (3 * num_params + 3)


@functools.cache
def _abstract_of(config):
  model = decoder.build(config)
  abstract = train_state.abstract(init=model.init, optimizer=OPTIMIZER)
  return abstract, model.logical_axes()


@pytest.mark.parametrize("config", [tiny_models.DECODER, MIXTURE])
@pytest.mark.parametrize(
  "sizes",
  [
    {"data": 8},
    {"fsdp": 8},
    {"data": 4, "tensor": 2},
    {"data": 4, "expert": 2},
    {"data": 4, "sequence": 2},
    {"expert": 8},
    {"fsdp": 2, "expert": 2, "tensor": 2},
    {"fsdp": 4, "tensor": 2},
    {"fsdp": 2, "sequence": 2, "tensor": 2},
  ],
  ids=str,
)
def test_a_device_holds_the_bytes_that_the_arithmetic_says(config, sizes):
  if config.moe is None:
    sizes = {"fsdp" if k == "expert" else k: v for k, v in sizes.items()}
    sizes["data"] = 8 // math.prod(v for k, v in sizes.items() if k != "data")
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, **sizes})
  abstract, axes = _abstract_of(config)
  shardings = train_state.state_shardings(mesh, axes, abstract)
  found = jax.tree.map(
    lambda x, sharding: (
      math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
    ),
    abstract,
    shardings,
  )
  assert sum(jax.tree.leaves(found)) == _bytes_of_a_device(config, **sizes)


def test_a_state_has_the_bytes_of_its_shardings_on_every_device():
  sizes = {"fsdp": 2, "expert": 2, "tensor": 2}
  mesh = mesh_lib.make_mesh({"data": 1, **sizes})
  model = decoder.build(MIXTURE)
  abstract = train_state.abstract(init=model.init, optimizer=OPTIMIZER)
  state = train_state.create(
    init=model.init,
    optimizer=OPTIMIZER,
    key=jax.random.key(0),
    shardings=train_state.state_shardings(mesh, model.logical_axes(), abstract),
  )
  shards = [x.addressable_shards for x in jax.tree.leaves(state)]
  for of_device in zip(*shards):
    held = sum(shard.data.nbytes for shard in of_device)
    assert held == _bytes_of_a_device(MIXTURE, **sizes)


def test_moments_of_muon_and_of_what_wraps_it_live_with_their_params(
  tiny_model, mesh
):
  optimizer = optimizers.skipping_spikes(
    optimizer=optimizers.muon(
      learning_rate=schedules.constant_with_warmup(peak=1e-2, warmup_steps=2),
      beta=0.95,
      update_rms=0.2,
      beta1=0.9,
      beta2=0.95,
      epsilon=1e-8,
      weight_decay=0.1,
      max_grad_norm=1.0,
    ),
    window=4,
    num_deviations=6.0,
  )
  axes = {"embedding": ("embed", "mlp"), **tiny_model.logical_axes()}
  axes["head"] = {"kernel": ("embed", "mlp")}  # a matrix of Muon's
  made = optimizer(axes)
  abstract = train_state.abstract(init=tiny_model.init, optimizer=made)
  shardings = train_state.state_shardings(mesh, axes, abstract)
  moments = {
    jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
    for path, sharding in jax.tree.leaves_with_path(shardings.opt_state)
    if sharding.spec != PartitionSpec()
  }
  found = sorted((path.split("/")[-1], spec) for path, spec in moments.items())
  assert found == [
    ("embedding", PartitionSpec("tensor", "fsdp")),  # Adam's two
    ("embedding", PartitionSpec("tensor", "fsdp")),
    ("kernel", PartitionSpec("fsdp", "tensor")),  # Muon's one
    ("scale", PartitionSpec("fsdp")),
    ("scale", PartitionSpec("fsdp")),
  ]
