"""The counter of FLOPs against hand cases and every model's closed form."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

import gin
from mlm.models import backends, counting, decoder, encdec, families
from mlm.planning import flops
from mlm.training import loss_weights, losses

ROOT = pathlib.Path(__file__).parents[3]
_FAMILIES = ("aya23", "llama3", "llama5", "mixtral", "mt5", "umt5")
MODELS = sorted(
  path.stem
  for path in (ROOT / "gin" / "models").glob("*.gin")
  if path.stem not in _FAMILIES
)
ENCODER_DECODERS = [name for name in MODELS if name.startswith("mt5")]
DECODERS = [name for name in MODELS if name not in ENCODER_DECODERS]
ONE = 2 * 8 * 16 * 16  # of [8, 16] @ [16, 16]


@pytest.fixture(autouse=True)
def _gin(monkeypatch):
  monkeypatch.chdir(ROOT)
  yield
  gin.clear_config()


def _operands():
  return jnp.ones((8, 16)), jnp.ones((16, 16))


def _total(function, *args):
  return sum(flops.of_function(function, *args).values())


def test_a_scan_multiplies_its_body_by_its_length_and_nests():
  def layers(x, w):
    inner = lambda c, _: (c @ w, None)  # noqa: E731
    outer = lambda c, _: (jax.lax.scan(inner, c, None, length=3)[0], None)  # noqa: E731
    return jax.lax.scan(outer, x, None, length=5)[0]

  assert _total(layers, *_operands()) == 15 * ONE


def test_xla_counts_the_body_of_the_same_scan_once():
  """Why there is a counter at all."""

  def layers(x, w):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=64)[0]

  lowered = jax.jit(layers).lower(*_operands())
  assert lowered.compile().cost_analysis()["flops"] < 2 * ONE
  assert _total(layers, *_operands()) == 64 * ONE


def test_a_fori_loop_of_known_bounds_counts_and_an_open_one_is_refused():
  def known(x, w):
    return jax.lax.fori_loop(2, 9, lambda _, c: c @ w, x)

  def open_ended(x, w):
    return jax.lax.while_loop(lambda c: c.sum() < 3, lambda c: c @ w, x)

  assert _total(jax.jit(known), *_operands()) == 7 * ONE
  with pytest.raises(ValueError, match="lax.scan"):
    flops.of_function(open_ended, *_operands())


def test_the_dearest_branch_of_a_cond_counts():
  def either(x, w):
    return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)

  assert _total(either, *_operands()) == 2 * ONE


def test_remat_adds_the_product_that_it_makes_again():
  """f = sin(sin(x w) w): 2 forward, 4 backward, x w again: 7, without 6."""

  def loss(x, w):
    return jnp.sin(jnp.sin(x @ w) @ w).sum()

  plain = jax.grad(loss, argnums=(0, 1))
  again = jax.grad(jax.checkpoint(loss), argnums=(0, 1))
  assert _total(plain, *_operands()) == 6 * ONE
  assert (
    _total(again, *_operands()) == 8 * ONE
  )  # the last one too: sin' needs it


def test_a_shard_map_counts_for_each_of_its_devices():
  mesh = jax.make_mesh(
    (4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  split = jax.shard_map(
    lambda x, w: x @ w,
    mesh=mesh,
    in_specs=(jax.P("a"), jax.P(None, "b")),
    out_specs=jax.P("a", "b"),
  )
  assert _total(split, *_operands()) == ONE


def test_a_convolution_and_ragged_products_count_as_the_same_products():
  x, kernel = jnp.ones((1, 10, 3)), jnp.ones((4, 3, 5))
  convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
    x, k, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
  )
  assert _total(convolve, x, kernel) == 2 * 7 * 4 * 3 * 5

  rows, matrices = jnp.ones((8, 16)), jnp.ones((4, 16, 32))
  sizes = jnp.array([5, 0, 2, 1])
  loss = lambda x, w: jax.lax.ragged_dot(x, w, sizes).sum()  # noqa: E731
  both = jax.grad(loss, argnums=(0, 1))
  assert _total(both, rows, matrices) == 3 * 2 * 8 * 16 * 32


def test_a_kernel_without_an_estimate_counts_its_body_for_each_of_its_grid():
  from jax.experimental import pallas as pl

  def kernel(x, w, out):
    out[...] = x[...] @ w[...]

  call = pl.pallas_call(
    kernel,
    grid=(2,),
    in_specs=[
      pl.BlockSpec((4, 16), lambda i: (i, 0)),
      pl.BlockSpec((16, 16), lambda i: (0, 0)),
    ],
    out_specs=pl.BlockSpec((4, 16), lambda i: (i, 0)),
    out_shape=jax.ShapeDtypeStruct((8, 16), jnp.float32),
    interpret=True,
  )
  assert flops.of_function(call, *_operands()) == {"pallas_call": ONE}


def _config(name):
  kind = encdec.EncoderDecoderConfig if "mt5" in name else decoder.DecoderConfig
  module = kind.__module__.rpartition(".")[2]
  lines = [
    "from __gin__ import dynamic_registration",
    f"from mlm.models import {module}",
    f"include 'gin/models/{name}.gin'",
  ]
  if name.endswith("tiny"):
    lines.append("VOCAB_SIZE = 4096")
  gin.parse_config(lines)
  return gin.get_configurable(kind)()


def _step_flops(config, lengths):
  """Of loss and gradient of one row, with plain attention and plain logits."""
  model = families.build(config, backends=backends.PLAIN)
  loss = losses.cross_entropy_loss(
    model.apply,
    z_loss=1e-4,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend="reference",
    num_languages=109,
  )
  batch = {
    f"{side}_{name}": jax.ShapeDtypeStruct((1, length), jnp.int32)
    for side, length in lengths.items()
    for name in (
      *("input_tokens", "target_tokens", "positions", "segment_ids"),
      *("language_ids", "loss_weights"),
    )
  }
  params = jax.eval_shape(model.init, jax.random.key(0))
  return _total(jax.grad(lambda p, b: loss(p, None, b, None)[0]), params, batch)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_step_has_the_flops_of_its_closed_form(name):
  """Plain attention multiplies the whole square: closed forms have half.

  Remat adds what `recomputed_flops_per_token` says, the same square doubled.
  """
  config, length = _config(name), 256
  width = config.num_layers * config.num_heads * config.head_dim
  for remat in ("none", "minimal", "full"):
    config = dataclasses.replace(config, remat=remat)
    square = (6 if remat == "none" else 8) * width * length
    expected = counting.training_flops_per_token(config, length)
    expected += counting.recomputed_flops_per_token(config, length)
    expected += square
    counted = _step_flops(config, {"decoder": length})
    assert counted == pytest.approx(length * expected, rel=0.01), remat


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_mt5s_step_has_the_flops_of_its_closed_form(name):
  """The closed form has half of the decoder's square, plain attention all.

  Beside it, buckets of distance are looked up and their gradient summed by
  products with one-hot vectors, 4 N buckets for each pair of tokens.
  """
  config = dataclasses.replace(_config(name), remat="none")
  width = config.num_heads * config.head_dim
  expected = counting.encoder_decoder_training_flops(config, 128, 64)
  expected += config.num_decoder_layers * 6 * width * 64**2
  expected += 4 * config.num_heads * config.num_buckets * (128**2 + 64**2)
  counted = _step_flops(config, {"encoder": 128, "decoder": 64})
  assert counted == pytest.approx(expected, rel=0.01)
