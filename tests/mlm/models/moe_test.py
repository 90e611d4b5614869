"""Mixtures of experts: against loops, by properties, in a decoder, on a mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.grouped_matmul import api as grouped_matmul
from kernels.grouped_matmul import megablox_tpu
from mlm.models import decoder, moe
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import loss_weights, losses
from tests import tiny_models

MOE = moe.MoEConfig(
  num_experts=4,
  num_experts_per_token=2,
  renormalize=True,
  capacity_factor=None,
  load_balancing_weight=0.01,
  router_z_weight=0.001,
)
CONFIG = dataclasses.replace(tiny_models.DECODER, moe=MOE)
AMPLE = dataclasses.replace(MOE, capacity_factor=2.0)  # E / A: all of a row
TIGHT = dataclasses.replace(MOE, capacity_factor=0.5)
VALID = np.array([[True] * 6, [False] * 2 + [True] * 4])


def _layer(config, kind="swiglu"):
  """A jitted layer, its params of order 1 and inputs [2, 6, 8]."""
  module = moe.MoE(config, kind, 12, "ragged")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 6, 8)).astype(np.float32)
  abstract = jax.eval_shape(module.init, jax.random.key(0), x, VALID)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    _unboxed(abstract["params"]),
  )
  return jax.jit(lambda p, x, v: module.apply({"params": p}, x, v)), params, x


def _unboxed(tree):
  return jax.tree.map(
    lambda leaf: leaf.value,
    tree,
    is_leaf=lambda leaf: hasattr(leaf, "value"),
  )


def _choices(config, router, x):
  """(probabilities [B, T, E], experts, weights [B, T, A]) by numpy."""
  logits = x @ router
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  experts = np.argsort(-probabilities, axis=-1, kind="stable")
  experts = experts[..., : config.num_experts_per_token]
  weights = np.take_along_axis(probabilities, experts, axis=-1)
  if config.renormalize:
    weights = weights / weights.sum(-1, keepdims=True)
  return probabilities, experts, weights


def _mlp(params, e, x, kind):
  up = x @ params["up"][e]
  if kind == "swiglu":
    gate = x @ params["gate"][e]
    hidden = gate / (1 + jnp.exp(-gate)) * up
  else:
    hidden = jax.nn.gelu(up)
  return hidden @ params["down"][e]


def _loop(config, params, x, valid, kind="swiglu", capacity=10**9):
  """(outputs, assignments [E], number dropped): token by token."""
  _, experts, weights = _choices(config, params["router"], x)
  out, dropped = jnp.zeros_like(x), 0
  assigned = np.zeros(config.num_experts)
  for b in range(x.shape[0]):
    taken = np.zeros(config.num_experts)
    for t in range(x.shape[1]):
      for a in range(config.num_experts_per_token):
        e = experts[b, t, a]
        if not valid[b, t]:
          continue
        assigned[e] += 1
        if taken[e] >= capacity:
          dropped += 1
          continue
        taken[e] += 1
        y = _mlp(params, e, x[b, t], kind)
        out = out.at[b, t].add(weights[b, t, a] * y)
  return out, assigned, dropped


@pytest.mark.parametrize(
  "kind, renormalize", [("swiglu", True), ("gelu", False)]
)
@pytest.mark.parametrize(
  "capacity_factor, capacity", [(None, 10**9), (9.0, 6), (0.5, 2), (0.7, 3)]
)
def test_experts_equal_a_loop_over_tokens(
  kind, renormalize, capacity_factor, capacity
):
  """Ample capacities drop nothing; tight ones the last of a row, no others."""
  config = dataclasses.replace(
    MOE, renormalize=renormalize, capacity_factor=capacity_factor
  )
  layer, params, x = _layer(config, kind)
  found, statistics = layer(params, x, VALID)
  want, assigned, dropped = _loop(config, params, x, VALID, kind, capacity)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(statistics["assignments"], assigned)
  assert statistics["dropped"] == dropped
  assert (dropped > 0) == (capacity < 6)


def test_losses_equal_numpy_and_leave_padding_out():
  layer, params, x = _layer(MOE)
  _, statistics = layer(params, x, VALID)
  probabilities, experts, _ = _choices(MOE, params["router"], x)
  shares = np.array([(experts[VALID] == e).any(-1).mean() for e in range(4)])
  balance = 4 * (shares * probabilities[VALID].mean(0)).sum()
  logits = (x @ params["router"])[VALID]
  z_loss = (np.log(np.exp(logits).sum(-1)) ** 2).mean()
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), statistics)
  auxiliary = moe.auxiliary(MOE, stacked)
  metrics = auxiliary["auxiliary"]
  assert float(metrics["load_balancing_loss"][0]) == (
    pytest.approx(balance, rel=1e-5)
  )
  assert float(metrics["router_z_loss"][0]) == pytest.approx(z_loss, rel=1e-5)
  assert float(auxiliary["auxiliary_loss"]) == pytest.approx(
    0.01 * balance + 0.001 * z_loss, rel=1e-5
  )
  loads, _ = metrics["load_by_expert"]
  np.testing.assert_allclose(loads, 4 * shares / shares.sum(), rtol=1e-5)
  other = np.where(VALID[..., None], x, 100.0)
  out, same = layer(params, other, VALID)
  jax.tree.map(np.testing.assert_array_equal, statistics, same)
  np.testing.assert_array_equal(out[~VALID], 0)


@pytest.mark.parametrize("num_chosen", [1, 2])
def test_the_balancing_loss_of_equal_loads_is_the_number_chosen(num_chosen):
  """1 for top-1; and E / A times as much if all tokens choose alike."""
  config = dataclasses.replace(MOE, num_experts_per_token=num_chosen)

  def balance(probability, assignments):
    statistics = {
      "probability": jnp.float32(probability)[None],
      "assignments": jnp.float32(assignments)[None],
      "z_loss": jnp.zeros(1),
      "dropped": jnp.zeros(1),
    }
    return float(
      moe.auxiliary(config, statistics)["auxiliary"]["load_balancing_loss"][0]
    )

  assert balance([0.25] * 4, [10] * 4) == pytest.approx(num_chosen)
  chosen = [1] * num_chosen + [0] * (4 - num_chosen)
  assert balance(np.divide(chosen, num_chosen), chosen) == pytest.approx(4)


@pytest.mark.parametrize("capacity_factor, capacity", [(None, 99), (0.5, 2)])
def test_gradients_equal_those_of_the_loop(capacity_factor, capacity):
  config = dataclasses.replace(
    MOE, renormalize=False, capacity_factor=capacity_factor
  )
  layer, params, x = _layer(config)
  probe = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
  # The loop's weights are numpy's: its gradient knows kernels and inputs. The
  # router's follows from finite differences below.
  kernels = {k: v for k, v in params.items() if k != "router"}

  def ours(kernels):
    return (layer({**params, **kernels}, x, VALID)[0] * probe).sum()

  def loop(kernels):
    merged = {**params, **kernels}
    return (_loop(config, merged, x, VALID, capacity=capacity)[0] * probe).sum()

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    jax.grad(ours)(kernels),
    jax.grad(loop)(kernels),
  )

  def of_router(router):
    return (layer({**params, "router": router}, x, VALID)[0] * probe).sum()

  direction = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
  step = 1e-3
  difference = of_router(params["router"] + step * direction) - of_router(
    params["router"] - step * direction
  )
  gradient = (jax.grad(of_router)(params["router"]) * direction).sum()
  assert float(gradient) == pytest.approx(
    float(difference) / 2 / step, rel=0.02
  )


def _decoder(moe_config):
  model = decoder.build(dataclasses.replace(CONFIG, moe=moe_config))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )
  model = model._replace(
    apply=jax.jit(model.apply), extend=jax.jit(model.extend)
  )
  return model, params


def _batch(tokens, segments=None):
  tokens = np.asarray(tokens, np.int32)
  segments = np.int32(np.ones_like(tokens) if segments is None else segments)
  return {
    "decoder_input_tokens": tokens,
    "decoder_segment_ids": segments,
    "decoder_positions": np.maximum(np.cumsum(segments != 0, axis=1) - 1, 0),
  }


def _logits(outputs):
  return outputs["hidden"] @ outputs["unembedding"]


@pytest.mark.parametrize("config", [MOE, TIGHT], ids=["dropless", "tight"])
def test_no_token_depends_on_later_ones(config):
  model, params = _decoder(config)
  before = np.arange(8)[None] + 1
  after = before.copy()
  after[0, 5:] = 40
  a, b = (_logits(model.apply(params, _batch(x))) for x in (before, after))
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert (a[:, 5:] != b[:, 5:]).any()


@pytest.mark.parametrize("config", [MOE, TIGHT], ids=["dropless", "tight"])
def test_other_rows_and_the_tokens_of_padding_change_nothing(config):
  model, params = _decoder(config)
  row, segments = [1, 2, 3, 4, 5, 6, 0, 0], [1] * 6 + [0] * 2
  alone = model.apply(params, _batch([row], [segments]))
  other = model.apply(
    params, _batch([row[:6] + [9, 9], [7] * 8], [segments, [0] * 8])
  )
  np.testing.assert_allclose(
    _logits(alone)[0, :6], _logits(other)[0, :6], rtol=1e-4, atol=1e-5
  )
  for name in alone["auxiliary"]:
    np.testing.assert_allclose(
      alone["auxiliary"][name][0], other["auxiliary"][name][0], rtol=1e-5
    )


@pytest.mark.parametrize("config", [MOE, AMPLE], ids=["dropless", "ample"])
def test_cached_decoding_equals_the_full_forward(config):
  model, params = _decoder(config)
  rows = np.array([[0, 0, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6]])
  valid = rows != 0
  batch = _batch(rows, valid)
  full = _logits(model.apply(params, batch))
  cache, found = model.init_cache(2, 6), []
  for cut in (slice(0, 4), slice(4, 5), slice(5, 6)):
    positions = batch["decoder_positions"][:, cut]
    outputs, cache = model.extend(
      params, cache, rows[:, cut], positions, valid[:, cut]
    )
    found.append(_logits(outputs))
  found = np.concatenate(found, axis=1)
  np.testing.assert_allclose(found[valid], full[valid], rtol=1e-4, atol=1e-4)


# (data, fsdp, expert, sequence, tensor)
WITHOUT_EXPERTS, WITH_EXPERTS = (2, 2, 1, 1, 2), (1, 2, 2, 1, 2)


def _mesh(shape):
  return mesh_lib.make_mesh(dict(zip(mesh_lib.AXES, shape)))


@pytest.mark.parametrize(
  "config, shape, in_context",
  [
    (MOE, WITHOUT_EXPERTS, False),
    (MOE, WITHOUT_EXPERTS, True),
    (MOE, WITH_EXPERTS, True),
    (TIGHT, WITH_EXPERTS, True),
  ],
  ids=[
    "dropless without a mesh in context",
    "dropless",
    "dropless, experts split",
    "tight, experts split",
  ],
)
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(
  config, shape, in_context
):
  model, params = _decoder(config)
  tokens = np.arange(8 * 6).reshape(8, 6) % 48
  batch = {
    **_batch(tokens),
    "decoder_target_tokens": np.roll(tokens, -1, axis=1),
    "decoder_loss_weights": np.ones(tokens.shape, np.float32),
    "decoder_language_ids": np.zeros_like(tokens),
  }
  loss_fn = losses.cross_entropy_loss(
    model.apply,
    z_loss=0.0,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend="chunked",
    num_languages=2,
  )
  step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (want, metrics), want_gradients = step(params, None, batch, None)
  weighted = 0.01 * metrics["load_balancing_loss"][0]
  weighted += 0.001 * metrics["router_z_loss"][0]
  mean = metrics["loss"][0] / metrics["loss"][1]
  assert float(want) == pytest.approx(float(mean + weighted), rel=1e-6)
  mesh = _mesh(shape)
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  sharded = jax.device_put(params, shardings)
  batch = jax.device_put(batch, rules.batch_sharding(mesh))
  if in_context:
    with jax.set_mesh(mesh):
      (found, _), gradients = step(sharded, None, batch, None)
  else:
    (found, _), gradients = step(sharded, None, batch, None)
  assert float(found) == pytest.approx(float(want), rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    gradients,
    want_gradients,
  )


@pytest.mark.parametrize("num_rows", [8, 1])
def test_megablox_emulated_on_split_experts_equals_a_plain_loop(
  monkeypatch, num_rows
):
  """Rows split like a batch, and a single one that every device holds."""
  monkeypatch.setitem(
    grouped_matmul.BACKENDS,
    "emulated",
    functools.partial(megablox_tpu.grouped_matmul, interpret=True),
  )
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_rows, 3, 8)).astype(np.float32)
  experts = rng.integers(0, 5, (num_rows, 3, 2))  # 4 stands for none
  weights = rng.random((num_rows, 3, 2)).astype(np.float32)
  kernels = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in (("up", (4, 8, 6)), ("down", (4, 6, 8)))
  }

  def both(backend):
    def total(x, weights, kernels):
      mixed = moe.dropless(
        x, experts, weights, kernels, jax.nn.gelu, backend=backend
      )
      return jnp.sum(mixed * jnp.cos(mixed)), mixed

    gradient = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(gradient)(x, weights, kernels)

  want = both("reference")
  with jax.set_mesh(_mesh((2, 1, 2, 1, 2))):
    found = both("emulated")
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want)):
    # Of the whole: terms of 30 cancel to single elements of 0.1.
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


def test_a_mesh_that_does_not_divide_the_experts_is_refused():
  model, params = _decoder(MOE)
  with pytest.raises(
    ValueError, match="expert = 4 is not divisible by the 'expert' axis of 8"
  ):
    rules.named_shardings(_mesh((1, 1, 8, 1, 1)), model.logical_axes(), params)


def test_a_configuration_survives_its_checkpoint():
  assert decoder.DecoderConfig(**dataclasses.asdict(CONFIG)) == CONFIG


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_experts_per_token": 5}, "from 1 to num_experts 4"),
    ({"num_experts_per_token": 0}, "from 1 to num_experts 4"),
    ({"capacity_factor": 0.0}, "None drops no token"),
    ({"load_balancing_weight": -0.1}, "0 or more"),
  ],
)
def test_impossible_mixtures_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(MOE, **change)


def test_experts_have_no_biases():
  with pytest.raises(ValueError, match="whose experts have none"):
    dataclasses.replace(CONFIG, norm="layer", use_biases=True)
