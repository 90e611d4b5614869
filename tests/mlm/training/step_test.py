import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.training import loss_weights, losses, optimizers, schedules
from mlm.training import state as train_state
from mlm.training import step as train_step
from tests import tiny_models

BACKEND = linear_cross_entropy.default_backend()
ONE_DEVICE = (1, 1, 1)


def _mesh(shape):
  """Over as many of the eight devices as (data, fsdp, tensor) need."""
  devices = jax.devices()[: math.prod(shape)]
  data, fsdp, tensor = shape
  return Mesh(np.reshape(devices, (data, fsdp, 1, 1, tensor)), mesh_lib.AXES)


def _optimizer(max_grad_norm=1.0):
  return optimizers.adamw(
    learning_rate=schedules.warmup_cosine(
      peak=1e-2, warmup_steps=2, num_steps=10, final_fraction=0.1
    ),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    max_grad_norm=max_grad_norm,
  )(None)


def _start(model, params, mesh_shape, loss_fn, optimizer, num_microbatches=1):
  """Initial state, step function and placement on a mesh."""
  mesh = _mesh(mesh_shape)
  abstract = train_state.abstract(init=model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, model.logical_axes(), abstract)
  state = train_state.from_params(
    params=params, optimizer=optimizer, shardings=shardings
  )
  step_fn = train_step.make_train_step(
    loss_fn=loss_fn,
    optimizer=optimizer,
    num_microbatches=num_microbatches,
    mesh=mesh,
    state_shardings=shardings,
  )
  return state, step_fn, train_step.make_place(mesh)


@pytest.fixture
def params(tiny_model):
  return tiny_model.init(jax.random.key(0))


def _cross_entropy(model):
  return losses.cross_entropy_loss(
    model.apply,
    z_loss=1e-3,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend=BACKEND,
    num_languages=3,
  )


def test_update_is_the_optimizers_on_the_losss_gradient(
  tiny_model, params, make_batch
):
  """Three steps against jax.value_and_grad and optax."""
  loss_fn, optimizer = _cross_entropy(tiny_model), _optimizer(0.01)
  state, step_fn, place = _start(
    tiny_model, params, ONE_DEVICE, loss_fn, optimizer
  )
  opt_state = optimizer.init(params)
  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  for step in range(3):
    batch = make_batch(step)
    state, metrics = step_fn(state, None, place(batch), 0)
    (_, expected), grads = grad_fn(params, None, batch, None)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    updates, opt_state = jax.jit(optimizer.update)(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    assert norm > 0.01  # the metric is the norm before clipping
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-5)
    np.testing.assert_allclose(
      metrics["learning_rate"][0], optimizer.learning_rate(step), rtol=1e-6
    )
    for name, pair in expected.items():
      np.testing.assert_allclose(metrics[name][0], pair[0], rtol=1e-5)
  assert int(state.step) == 3
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
    state.params,
    params,
  )


def test_key_is_a_function_of_seed_and_step(tiny_model, params, make_batch):
  def loss_fn(params, frozen, batch, key):
    one = jnp.float32(1)
    drawn = jax.random.uniform(key)
    return 0 * params["embedding"].sum(), {"drawn": (drawn, one)}

  state, step_fn, place = _start(
    tiny_model, params, ONE_DEVICE, loss_fn, _optimizer()
  )
  batch = place(make_batch(0))
  for step in range(2):
    state, metrics = step_fn(state, None, batch, 23)
    key = jax.random.fold_in(jax.random.key(23), step)
    assert metrics["drawn"][0] == jax.random.uniform(key)


def test_frozen_params_are_read_and_not_trained(tiny_model, params, make_batch):
  def loss_fn(params, frozen, batch, key):
    distance = jnp.sum((params["embedding"] - frozen["target"]) ** 2)
    return distance, {"loss": (distance, jnp.float32(1))}

  state, step_fn, place = _start(
    tiny_model, params, ONE_DEVICE, loss_fn, _optimizer()
  )
  frozen = {"target": jnp.ones_like(state.params["embedding"])}
  batch = place(make_batch(0))
  distances = []
  for _ in range(5):
    state, metrics = step_fn(state, frozen, batch, 0)
    distances.append(float(metrics["loss"][0]))
  assert distances == sorted(distances, reverse=True)
  np.testing.assert_array_equal(frozen["target"], 1)


def test_state_given_is_donated(tiny_model, params, make_batch):
  state, step_fn, place = _start(
    tiny_model, params, ONE_DEVICE, _cross_entropy(tiny_model), _optimizer()
  )
  before = state
  step_fn(state, None, place(make_batch(0)), 0)
  assert all(x.is_deleted() for x in jax.tree.leaves(before))


MESHES = [
  (8, 1, 1),
  (1, 8, 1),
  (1, 1, 2),
  (2, 2, 2),
]


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_batch_is_split_over_data_and_fsdp(make_batch, mesh_shape):
  place = train_step.make_place(_mesh(mesh_shape))
  batch = make_batch(0, batch_size=16)
  placed = place({**batch, "language_ids": np.arange(16)})
  num_shards = mesh_shape[0] * mesh_shape[1]
  for name, array in placed.items():
    assert array.addressable_shards[0].data.shape[0] == 16 // num_shards
    np.testing.assert_array_equal(array, batch.get(name, np.arange(16)))


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_local_rows_are_placed_where_whole_batches_put_them(
  make_batch, mesh_shape
):
  mesh, batch = _mesh(mesh_shape), make_batch(0, batch_size=16)
  whole = train_step.make_place(mesh)(batch)
  local = train_step.make_place_local(mesh, 16)(batch)
  for name in batch:
    assert local[name].sharding == whole[name].sharding
    for a, b in zip(
      local[name].addressable_shards, whole[name].addressable_shards
    ):
      assert a.device == b.device
      np.testing.assert_array_equal(a.data, b.data)
  with pytest.raises(ValueError, match="has 8 rows, .* holds 16 of the 16"):
    train_step.make_place_local(mesh, 16)(make_batch(0))


def test_batch_that_does_not_divide_the_mesh_is_an_error(make_batch):
  place = train_step.make_place(_mesh(MESHES[0]))
  with pytest.raises(ValueError, match="12"):
    place(make_batch(0, batch_size=12))


def _decoder():
  return decoder.build(
    dataclasses.replace(
      tiny_models.DECODER,
      vocab_size=64,
      d_model=32,
      d_ff=64,
      tie_embeddings=True,
    )
  )


def _train(model, params, mesh_shape, batches, num_microbatches=1):
  state, step_fn, place = _start(
    model,
    params,
    mesh_shape,
    _cross_entropy(model),
    _optimizer(),
    num_microbatches,
  )
  losses_of_steps = []
  for batch in batches:
    state, metrics = step_fn(state, None, place(batch), 0)
    numerator, denominator = metrics["loss"]
    losses_of_steps.append(float(numerator / denominator))
  return losses_of_steps, jax.device_get(state.params)


@pytest.fixture(scope="module")
def unsharded_decoder():
  model = _decoder()
  batches = [_packed_batch(step) for step in range(5)]
  params = jax.jit(model.init)(jax.random.key(0))
  return model, params, batches, _train(model, params, ONE_DEVICE, batches)


def _packed_batch(step):
  """Two segments and padding a row, in 3 languages, int32 [8, 16]."""
  generator = np.random.default_rng([11, step])
  shape = (8, 16)
  segment_ids = np.repeat([1, 2, 0], [7, 6, 3])
  positions = np.concatenate([np.arange(7), np.arange(6), np.zeros(3)])
  tokens = generator.integers(1, 64, shape)
  return {
    "decoder_input_tokens": np.int32(tokens * (positions > 0)),
    "decoder_target_tokens": np.int32(np.roll(tokens, -1, axis=1)),
    "decoder_loss_weights": np.float32(np.broadcast_to(segment_ids > 0, shape)),
    "decoder_positions": np.int32(np.broadcast_to(positions, shape)),
    "decoder_segment_ids": np.int32(np.broadcast_to(segment_ids, shape)),
    "decoder_language_ids": np.int32(generator.integers(0, 3, shape)),
  }


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_sharded_training_is_the_unsharded_one(unsharded_decoder, mesh_shape):
  """Float32 sums in another order, over five steps: 1e-5 relative."""
  model, params, batches, expected = unsharded_decoder
  expected_losses, expected_params = expected
  found_losses, found_params = _train(model, params, mesh_shape, batches)
  np.testing.assert_allclose(found_losses, expected_losses, rtol=1e-5)
  difference = jax.tree.map(np.subtract, found_params, expected_params)
  assert optax.global_norm(difference) < 1e-5 * optax.global_norm(
    expected_params
  )
  assert expected_losses[-1] < expected_losses[0]


@pytest.mark.parametrize(
  "mesh_shape, num_microbatches", [((1, 1, 1), 4), ((2, 2, 2), 2)], ids=str
)
def test_microbatches_add_up_to_the_whole_batch(
  unsharded_decoder, mesh_shape, num_microbatches
):
  """Rows of unequal weight, one part of padding only; as sharded above."""
  model, params, batches, _ = unsharded_decoder
  batches = [dict(batch) for batch in batches]
  for batch in batches:
    weights = batch["decoder_loss_weights"].copy()
    weights[::num_microbatches] = 0
    weights[1, :5] = 0
    batch["decoder_loss_weights"] = weights
  whole, expected_params = _train(model, params, ONE_DEVICE, batches)
  found, found_params = _train(
    model, params, mesh_shape, batches, num_microbatches
  )
  np.testing.assert_allclose(found, whole, rtol=1e-5)
  difference = jax.tree.map(np.subtract, found_params, expected_params)
  assert optax.global_norm(difference) < 1e-5 * optax.global_norm(
    expected_params
  )


def test_microbatches_need_less_memory_for_activations(unsharded_decoder):
  model, params, batches, _ = unsharded_decoder
  wide = jax.tree.map(lambda x: np.tile(x, (8, 1)), batches[0])
  temporaries = []
  for num_microbatches in (1, 8):
    state, step_fn, place = _start(
      model,
      params,
      ONE_DEVICE,
      _cross_entropy(model),
      _optimizer(),
      num_microbatches,
    )
    memory = step_fn.lower(state, None, place(wide), 0).compile()
    temporaries.append(memory.memory_analysis().temp_size_in_bytes)
  assert temporaries[1] < temporaries[0] / 3


def test_microbatches_that_do_not_fit_are_errors(
  unsharded_decoder, tiny_model, make_batch
):
  model, params, batches, _ = unsharded_decoder
  with pytest.raises(ValueError, match="8 is not divisible by 3 micro-batches"):
    _train(model, params, ONE_DEVICE, batches, 3)
  with pytest.raises(ValueError, match="4 micro-batches x 4 shards"):
    _train(model, params, (2, 2, 2), batches, 4)

  def loss_fn(params, frozen, batch, key):
    return params["embedding"].sum(), {"loss": (1.0, 1.0)}

  state, step_fn, place = _start(
    tiny_model,
    tiny_model.init(jax.random.key(0)),
    ONE_DEVICE,
    loss_fn,
    _optimizer(),
    2,
  )
  with pytest.raises(ValueError, match="loss_weight"):
    step_fn(state, None, place(make_batch(0)), 0)
