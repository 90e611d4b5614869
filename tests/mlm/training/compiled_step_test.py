"""Whole train steps with their kernels, compiled ahead of time for TPUs.

  pytest -m tpu -s tests/mlm/training/compiled_step_test.py

prints what a device needs.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

import gin
from kernels import ahead_of_time
from mlm.languages import registry
from mlm.models import backends, decoder, encdec, families
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import loss_weights, losses, optimizers, schedules
from mlm.training import state as train_state
from mlm.training import step as train_step

ROOT = pathlib.Path(__file__).parents[3]
_FEATURES = {
  "decoder": ("input_tokens", "target_tokens", "positions", "segment_ids"),
  "encoder": ("input_tokens", "positions", "segment_ids"),
}


@pytest.fixture(autouse=True)
def _gin(monkeypatch):
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  monkeypatch.chdir(ROOT)
  yield
  gin.clear_config()


def _config(config_class, name):
  module = config_class.__module__.rpartition(".")[2]
  gin.parse_config(
    [
      "from __gin__ import dynamic_registration",
      f"from mlm.models import {module}",
      f"include 'gin/models/{name}.gin'",
    ]
  )
  return gin.get_configurable(config_class)()


def _needs(config, *, chosen, head, mesh, batch_size, lengths):
  """Of one update with AdamW on a device of the mesh."""
  model = families.build(config, backends=chosen)
  optimizer = optimizers.adamw(
    learning_rate=schedules.constant_with_warmup(peak=1e-4, warmup_steps=10),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    max_grad_norm=1.0,
  )(None)
  abstract = train_state.abstract(init=model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, model.logical_axes(), abstract)
  step = train_step.make_train_step(
    loss_fn=losses.cross_entropy_loss(
      model.apply,
      z_loss=1e-4,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      backend=head,
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=mesh,
    state_shardings=shardings,
  )

  def rows(length, dtype):
    shape = (batch_size, length)
    return jax.ShapeDtypeStruct(
      shape, dtype, sharding=rules.tokens_sharding(mesh, shape)
    )

  batch = {
    f"{side}_{name}": rows(length, jnp.int32)
    for side, length in lengths.items()
    for name in _FEATURES[side]
  }
  length = lengths["decoder"]
  batch["decoder_language_ids"] = rows(length, jnp.int32)
  batch["decoder_loss_weights"] = rows(length, jnp.float32)
  needs = ahead_of_time.needs(
    step.lower(
      train_state.with_shardings(abstract, shardings),
      None,
      batch,
      jax.ShapeDtypeStruct((), jnp.int32),
    )
  )
  print(f"{type(config).__name__} {batch_size} x {lengths}: {needs}")
  return needs


def _mesh(**sizes):
  shape = tuple(sizes.get(axis, 1) for axis in mesh_lib.AXES)
  return ahead_of_time.mesh("v5p:2x2x1", shape, mesh_lib.AXES)


@pytest.mark.tpu
@pytest.mark.slow
def test_a_decoder_of_a_billion_parameters_fits_four_v5p_chips():
  """Two rows of 4,096 tokens a chip; without kernels it needs 13.8 GiB."""
  config = _config(decoder.DecoderConfig, "llama5_1b")
  options = {
    "mesh": _mesh(fsdp=4),
    "batch_size": 8,
    "lengths": {"decoder": 4096},
  }
  ours = _needs(config, chosen=backends.TPU, head="pallas_tpu", **options)
  plain = _needs(config, chosen=backends.PLAIN, head="chunked", **options)
  assert ours.peak <= 11.5 * 2**30 < plain.peak


@pytest.mark.tpu
@pytest.mark.slow
def test_experts_split_over_chips_compile():
  """Two layers of the fine-grained 200B design, of 16 experts."""
  config = _config(decoder.DecoderConfig, "llama5_moe_200b")
  config = dataclasses.replace(
    config,
    num_layers=2,
    vocab_size=32768,
    moe=dataclasses.replace(config.moe, num_experts=16),
  )
  needs = _needs(
    config,
    chosen=backends.TPU,
    head="pallas_tpu",
    mesh=_mesh(fsdp=2, expert=2),
    batch_size=4,
    lengths={"decoder": 4096},
  )
  assert needs.peak <= 8.5 * 2**30


@pytest.mark.tpu
@pytest.mark.slow
def test_an_mt5_fits_four_v5p_chips():
  config = _config(encdec.EncoderDecoderConfig, "mt5_small")
  options = {
    "mesh": _mesh(fsdp=4),
    "batch_size": 32,
    "lengths": {"encoder": 1024, "decoder": 229},
  }
  ours = _needs(config, chosen=backends.TPU, head="pallas_tpu", **options)
  plain = _needs(config, chosen=backends.PLAIN, head="chunked", **options)
  assert ours.peak <= 2.7 * 2**30 < plain.peak


@pytest.mark.tpu
@pytest.mark.slow
def test_heads_and_vocabulary_split_over_chips_compile():
  """Three of mT5-small's heads a chip: a fourth of zeros fills the lanes."""
  needs = _needs(
    _config(encdec.EncoderDecoderConfig, "mt5_small"),
    chosen=backends.TPU,
    head="pallas_tpu",
    mesh=_mesh(fsdp=2, tensor=2),
    batch_size=32,
    lengths={"encoder": 1024, "decoder": 229},
  )
  assert needs.peak <= 1.6 * 2**30


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "config_class, name, lengths, bound",
  [
    (decoder.DecoderConfig, "llama5_1b", {"decoder": 4096}, 0.6),
    (
      encdec.EncoderDecoderConfig,
      "mt5_base",
      {"encoder": 1024, "decoder": 256},
      0.85,  # most of them are gradients
    ),
  ],
)
def test_rows_split_over_chips_compile(config_class, name, lengths, bound):
  """Two layers; what a device has of the activations is half of a row."""
  depths = [
    field.name
    for field in dataclasses.fields(config_class)
    if field.name.endswith("_layers")
  ]
  config = dataclasses.replace(
    _config(config_class, name), vocab_size=32768, **dict.fromkeys(depths, 2)
  )
  options = {"chosen": backends.TPU, "head": "pallas_tpu", "lengths": lengths}
  whole = _needs(config, mesh=_mesh(tensor=2), batch_size=8, **options)
  split = _needs(
    config, mesh=_mesh(sequence=2, tensor=2), batch_size=8, **options
  )
  # A gather of the keys and values of a layer comes on top.
  assert split.flops < 0.55 * whole.flops
  assert split.temporaries < bound * whole.temporaries
