"""The encoder–decoder: causality, packing, padding, cache, sharding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.relative_attention import api as relative_attention
from kernels.relative_attention import pallas_tpu
from mlm.models import backends as backends_lib
from mlm.models import encdec
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import loss_weights, losses
from tests import tiny_models

CONFIG = dataclasses.replace(tiny_models.ENCODER_DECODER, num_decoder_layers=3)


@functools.cache
def _jitted(relative_bias):
  """A model, and params under which every path matters to the logits."""
  model = encdec.build(dataclasses.replace(CONFIG, relative_bias=relative_bias))
  model = model._replace(
    apply=jax.jit(model.apply), extend=jax.jit(model.extend)
  )
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


@pytest.fixture(params=["stack", "layer"])
def family(request):
  """mT5 and umT5."""
  return _jitted(request.param)


@pytest.fixture
def mt5():
  return _jitted("stack")


def _batch(inputs, targets, source_ids=None, target_ids=None):
  inputs, targets = (np.asarray(x, np.int32) for x in (inputs, targets))
  ones = np.ones_like
  return {
    "encoder_input_tokens": inputs,
    "encoder_segment_ids": np.int32(
      ones(inputs) if source_ids is None else source_ids
    ),
    "decoder_input_tokens": targets,
    "decoder_segment_ids": np.int32(
      ones(targets) if target_ids is None else target_ids
    ),
  }


def _logits(outputs):
  return np.asarray(outputs["hidden"] @ outputs["unembedding"])


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_targets_see_every_input_and_no_later_target(family):
  model, params = family
  batch = _batch([[1, 2, 3]], [[0, 11, 12, 13]])

  def hidden(embedding):
    outputs = model.apply({**params, "embedding": embedding}, batch)
    return (outputs["hidden"][0, 1] * jnp.arange(16)).sum()

  gradient = np.abs(jax.grad(hidden)(params["embedding"])).max(axis=1)
  assert (gradient[[1, 2, 3, 0, 11]] > 0).all()
  np.testing.assert_array_equal(gradient[[12, 13]], 0)


def test_order_matters_on_both_sides(mt5):
  """Relative bias reaches both: without it sets of tokens would be alike."""
  model, params = mt5
  straight = _logits(model.apply(params, _batch([[1, 2, 3]], [[0, 4, 5, 6]])))
  for other in (
    _batch([[2, 1, 3]], [[0, 4, 5, 6]]),
    _batch([[1, 2, 3]], [[0, 5, 4, 6]]),
  ):
    assert np.abs(_logits(model.apply(params, other)) - straight).max() > 1e-3


def test_packed_pairs_are_as_if_alone(family):
  model, params = family
  pairs = [([7, 8, 9], [0, 10]), ([11, 12], [0, 13, 14])]
  packed = _batch(
    [[7, 8, 9, 11, 12, 0]],
    [[0, 10, 0, 13, 14, 0]],
    [[1, 1, 1, 2, 2, 0]],
    [[1, 1, 2, 2, 2, 0]],
  )
  got = _logits(model.apply(params, packed))[0]
  for rows, (inputs, targets) in zip((slice(0, 2), slice(2, 5)), pairs):
    _close(
      got[rows], _logits(model.apply(params, _batch([inputs], [targets])))[0]
    )


def test_padding_on_either_side_changes_nothing(family):
  model, params = family
  want = _logits(model.apply(params, _batch([[7, 8, 9]], [[0, 5, 6]])))[0]
  left = _batch([[3, 7, 8, 9]], [[4, 0, 5, 6]], [[0, 1, 1, 1]], [[0, 1, 1, 1]])
  right = _batch([[7, 8, 9, 3]], [[0, 5, 6, 4]], [[1, 1, 1, 0]], [[1, 1, 1, 0]])
  for batch, rows in ((left, slice(1, 4)), (right, slice(0, 3))):
    _close(_logits(model.apply(params, batch))[0, rows], want)


def test_cached_decoding_equals_the_full_forward(family):
  """Inputs of unequal length; a prefix of two targets, then one by one."""
  model, params = family
  inputs = np.array([[1, 2, 3, 0], [4, 5, 6, 7]])
  targets = np.array([[0, 8, 9, 10, 11], [0, 12, 13, 14, 15]])
  source_ids = np.int32(inputs != 0)
  full = model.apply(params, _batch(inputs, targets, source_ids))
  encoded = model.encode(params, inputs, source_ids)
  cache = model.init_cache(params, encoded, source_ids == 1, targets.shape[1])
  got = []
  for cut in (slice(0, 2), *(slice(t, t + 1) for t in range(2, 5))):
    tokens = targets[:, cut]
    outputs, cache = model.extend(
      params, cache, tokens, None, np.ones_like(tokens, bool)
    )
    got.append(_logits(outputs))
  _close(np.concatenate(got, axis=1), _logits(full))
  assert int(cache["index"]) == targets.shape[1]


def test_bfloat16_is_close_to_float32(mt5):
  model, params = mt5
  config = dataclasses.replace(CONFIG, activation_dtype="bfloat16")
  batch = _batch([[1, 2, 3, 4]], [[0, 5, 6]])
  want = model.apply(params, batch)["hidden"]
  got = jax.jit(encdec.build(config).apply)(params, batch)["hidden"]
  assert got.dtype == jnp.bfloat16
  # bfloat16 keeps 8 bits: 5 layers of a few roundings each, on values near 1.
  assert float(jnp.abs(want - got.astype(jnp.float32)).mean()) < 0.05


def test_initial_logits_have_unit_variance():
  """The scaled query kernel stands for the missing division by sqrt(H)."""
  config = dataclasses.replace(CONFIG, d_model=256, d_ff=512, vocab_size=512)
  model = encdec.build(config)
  tokens = np.random.default_rng(0).integers(0, 512, (8, 16))
  params = jax.jit(model.init)(jax.random.key(0))
  logits = _logits(jax.jit(model.apply)(params, _batch(tokens, tokens)))
  assert logits.std() == pytest.approx(1, abs=0.05)
  query = params["encoder"]["layers"]["attention"]["query"]
  key = params["encoder"]["layers"]["attention"]["key"]
  assert key.std() / query.std() == pytest.approx(6**0.5, rel=0.1)


@pytest.mark.parametrize(
  "relative_bias, attention",
  [
    ("layer", None),
    ("stack", "chunked"),
    pytest.param("stack", "emulated", marks=pytest.mark.slow),
  ],
)
def test_a_mesh_gives_the_same_with_gradients(
  monkeypatch, relative_bias, attention
):
  """With XLA's attention, and with backends of the kernel."""
  monkeypatch.setitem(
    relative_attention.BACKENDS,
    "emulated",
    functools.partial(
      pallas_tpu.relative_attention,
      block=128,
      vmem_limit_bytes=1 << 26,
      interpret=True,
    ),
  )
  model, params = _jitted(relative_bias)
  fused = encdec.build(
    dataclasses.replace(CONFIG, relative_bias=relative_bias),
    backends=backends_lib.PLAIN._replace(relative_attention=attention),
  )
  tokens = np.arange(8 * 6).reshape(8, 6) % 48
  segments = np.tile([1, 1, 1, 2, 2, 0], (8, 1))
  weights = jnp.float32(segments != 0)[..., None]

  def both(model):
    def loss(params, batch):
      hidden = model.apply(params, batch)["hidden"] * weights
      return jnp.sum(hidden * jnp.cos(hidden)), hidden

    return mesh_lib.jit(jax.grad(loss, has_aux=True))

  batch = _batch(tokens, tokens[::-1], segments, segments)
  want = both(model)(params, batch)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  batch = jax.device_put(batch, rules.batch_sharding(mesh))
  got = both(fused)(jax.device_put(params, shardings), batch)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_loss_of_every_model_trains_it(mt5):
  """Packed and padded rows, a few steps of plain gradient descent."""
  model, params = mt5
  targets = np.array([[10, 11, 12, 13, 14, 0]] * 2)
  segments = [[1, 1, 2, 2, 2, 0]] * 2
  batch = _batch(
    [[7, 8, 9, 11, 12, 0]] * 2,
    [[0, 10, 0, 12, 13, 0]] * 2,
    [[1, 1, 1, 2, 2, 0]] * 2,
    segments,
  ) | {
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.float32(np.array(segments) > 0),
    "decoder_language_ids": np.zeros_like(targets),
  }
  loss_fn = losses.cross_entropy_loss(
    model.apply,
    z_loss=0.0,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend="chunked",
    num_languages=1,
  )

  @jax.jit
  def step(params):
    (loss, _), gradient = jax.value_and_grad(
      lambda params: loss_fn(params, None, batch, None), has_aux=True
    )(params)
    return loss, jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient)

  found = []
  for _ in range(40):
    loss, params = step(params)
    found.append(float(loss))
  assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_heads": 0}, "at least 1"),
    ({"norm_epsilon": 0.0}, "above 0"),
    ({"num_buckets": 6}, "a multiple of 4"),
    ({"max_distance": 4}, "above half of it"),
    ({"relative_bias": "none"}, "choose stack, layer"),
    ({"activation_dtype": "float16"}, "65,504"),
    ({"remat": "some"}, "choose none"),
  ],
)
def test_impossible_configurations_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)
