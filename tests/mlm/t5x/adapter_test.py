"""Our models in t5x's hands: its losses, gradients, trainer and files.

What needs t5x is run where requirements-t5x.txt is installed.
"""

import dataclasses
import functools
import json
import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import t5x_parity as parity
from mlm.checkpoints import t5x as t5x_checkpoints
from mlm.checkpoints import tables
from mlm.models import decoder, families, moe
from mlm.t5x import adapter
from mlm.training import loss_weights, losses
from tests import tiny_models

GOLDEN = json.loads(
  (
    pathlib.Path(__file__).parents[2] / "testdata" / "t5x_losses.json"
  ).read_text()
)["cases"]
MT5 = dataclasses.replace(
  tiny_models.ENCODER_DECODER,
  vocab_size=256,
  num_decoder_layers=3,
  d_model=128,
  d_ff=192,
  num_heads=4,
  head_dim=48,
  num_buckets=32,
  max_distance=128,
)
CONFIGS = {
  "t5": MT5,
  "scalable_t5": dataclasses.replace(MT5, relative_bias="layer"),
  "decoder": dataclasses.replace(
    tiny_models.DECODER, vocab_size=256, d_model=128, d_ff=192
  ),
}


def _module(config):
  is_decoder = isinstance(config, decoder.DecoderConfig)
  kind = adapter.Decoder if is_decoder else adapter.EncoderDecoder
  return kind(config, dropout_rate=0.0)


def _flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): x
    for path, x in jax.tree_util.tree_flatten_with_path(
      tree, is_leaf=lambda x: isinstance(x, tuple)
    )[0]
  }


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_names_and_shapes_are_those_of_t5x(case):
  variables = jax.eval_shape(_module(CONFIGS[case]).init, jax.random.key(0))
  found = {
    name: list(x.shape) for name, x in _flat(variables["params"]).items()
  }
  assert found == GOLDEN[case]["shapes"]


@pytest.mark.parametrize("case", CONFIGS)
def test_params_go_to_t5x_and_back_within_a_program(case):
  config = CONFIGS[case]
  params = jax.jit(families.build(config).init)(jax.random.key(0))
  there = jax.jit(functools.partial(t5x_checkpoints.traced_to_t5x, config))
  back = jax.jit(functools.partial(t5x_checkpoints.traced_from_t5x, config))
  jax.tree.map(np.testing.assert_array_equal, back(there(params)), params)


def test_a_decoder_has_its_own_axes_by_names_of_t5x():
  axes = _flat(adapter.logical_axes(CONFIGS["decoder"]))
  assert axes["layers/attention/key"] == ("layers", "embed", "heads", "kv")
  assert axes["layers/mlp/down"] == ("layers", "mlp", "embed")
  assert axes["layers/mlp_norm/scale"] == ("layers", "embed")
  assert axes["unembedding"] == ("embed", "vocab")


def test_what_t5x_cannot_train_is_refused():
  config = CONFIGS["decoder"]
  with pytest.raises(ValueError, match="DROPOUT_RATE is 0.1"):
    adapter.Decoder(config, dropout_rate=0.1)
  experts = dataclasses.replace(
    config,
    moe=moe.MoEConfig(
      num_experts=4,
      num_experts_per_token=2,
      renormalize=True,
      capacity_factor=None,
      load_balancing_weight=0.01,
      router_z_weight=0.0,
    ),
  )
  with pytest.raises(ValueError, match="experts"):
    adapter.Decoder(experts, dropout_rate=0.0)
  with pytest.raises(ValueError, match="max_distance"):
    adapter.EncoderDecoder(
      dataclasses.replace(MT5, max_distance=64), dropout_rate=0.0
    )
  ones = np.ones((1, 2), np.int32)
  module = adapter.Decoder(config, dropout_rate=0.0)
  with pytest.raises(ValueError, match="import_checkpoint"):
    module.apply({}, ones, ones, decode=True, mutable=["cache"])
  module_of_both = adapter.EncoderDecoder(MT5, dropout_rate=0.0)
  with pytest.raises(ValueError, match="import_checkpoint"):
    module_of_both.apply({}, ones, method=module_of_both.encode)
  with pytest.raises(ValueError, match="inputs_bidirectional_attention"):
    module.apply({}, ones, ones, decoder_causal_attention=ones)


def _model(config):
  """t5x's own model and Adafactor with one of our modules in it."""
  models = pytest.importorskip("t5x.models")
  stock = parity.make_model("t5", parity.SIZES)
  kind = models.EncoderDecoderModel
  vocabularies = {
    "input_vocabulary": stock.input_vocabulary,
    "output_vocabulary": stock.output_vocabulary,
  }
  if isinstance(config, decoder.DecoderConfig):
    kind = models.DecoderOnlyModel
    vocabularies = {"vocabulary": stock.output_vocabulary}
  return kind(
    module=_module(config),
    optimizer_def=stock.optimizer_def,
    z_loss=1e-4,
    loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    **vocabularies,
  )


def _batch():
  """Packed rows with padding, as t5x's converters make them."""
  batch = parity.batch()
  segments = batch["decoder_segment_ids"]
  starts = segments != np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
  places = np.arange(segments.shape[1])
  first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
  batch["decoder_positions"] = np.int32(np.where(segments, places - first, 0))
  return batch


@pytest.mark.parametrize("case", ["t5", "decoder"])
def test_losses_and_gradients_of_its_trainer_are_ours(case):
  """As t5x takes them, on its own mesh: of model parallelism on CPUs."""
  pytest.importorskip("t5x.trainer")
  from t5x import partitioning, train_state, trainer

  heads = {"num_heads": 8, "head_dim": 16}
  if case == "decoder":
    heads["num_kv_heads"] = 8
  config, batch = dataclasses.replace(CONFIGS[case], **heads), _batch()
  model = _model(config)
  partitioner = partitioning.PjitPartitioner(
    num_partitions=1,
    backend="cpu",
    logical_axis_rules=partitioning.standard_logical_axis_rules(),
  )

  def init():
    variables = model.get_initial_variables(
      jax.random.PRNGKey(0), {name: x.shape for name, x in batch.items()}
    )
    return train_state.FlaxOptimTrainState.create(
      model.optimizer_def, variables
    )

  axes = partitioner.get_mesh_axes(jax.eval_shape(init))
  state = partitioner.partition(init, None, axes)()
  params = jax.tree.map(np.asarray, state.params)

  gradients = partitioner.partition(
    lambda state, batch: trainer.accumulate_grads_microbatched(
      model, state, batch, None, None
    )[:2],
    (axes, partitioner.data_partition_spec),
    (axes.params, None),
  )
  batch = {name: jnp.asarray(x) for name, x in batch.items()}
  found, metrics = gradients(state, batch)

  ours = t5x_checkpoints.traced_from_t5x(config, params)
  loss_fn = losses.cross_entropy_loss(
    families.build(config).apply,
    z_loss=1e-4,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend="reference",
    num_languages=1,
  )
  batch["decoder_language_ids"] = jnp.zeros_like(batch["decoder_segment_ids"])
  (loss, _), wanted = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
    ours, None, batch, None
  )
  # Float32 against float32, in another order of sums.
  assert float(metrics["loss"].total) == pytest.approx(float(loss), rel=1e-6)
  found = t5x_checkpoints.traced_from_t5x(config, found)
  for name, want in _flat(wanted).items():
    got = _flat(found)[name]
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < 1e-5, (name, error)


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_eight_losses_of_its_trainer_are_those_of_its_own_network(case):
  """Its Adafactor factors ours as its own: the axes tell it how."""
  pytest.importorskip("t5x.trainer")
  from t5x import train_state, trainer

  module = _module(CONFIGS[case])
  model = parity.make_model(case, parity.SIZES)
  model.module = module
  params = tables.nested(
    {
      name: parity.weights(name, tuple(shape))
      for name, shape in GOLDEN[case]["shapes"].items()
    }
  )
  axes = jax.eval_shape(module.init, jax.random.key(0))["params_axes"]
  state = train_state.FlaxOptimTrainState.create(
    model.optimizer_def,
    flax.core.freeze({"params": params, "params_axes": axes}),
  )
  step = jax.jit(
    functools.partial(
      trainer.train_with_lr,
      model=model,
      num_microbatches=None,
      dropout_rng=None,
    )
  )
  found, batch = [], jax.tree.map(jnp.asarray, parity.batch())
  for number in range(parity.NUM_STEPS):
    state, metrics = step(state, batch, parity.learning_rate()(number))
    found.append(float(metrics["loss"].total))
  golden = GOLDEN[case]["losses"]
  assert found[0] == pytest.approx(golden[0], rel=1e-6)
  np.testing.assert_allclose(found, golden, rtol=1e-4)  # as for our own loop


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_annotations_are_those_of_its_networks(case):
  pytest.importorskip("t5x.models")
  stock = parity.make_model(
    case,
    parity.SIZES,
    **({"scan_layers": True} if case == "scalable_t5" else {}),
  )
  shapes = {name: x.shape for name, x in parity.batch().items()}
  variables = jax.eval_shape(
    functools.partial(
      stock.get_initial_variables, jax.random.PRNGKey(0), shapes
    )
  )
  axes = jax.eval_shape(_module(CONFIGS[case]).init, jax.random.key(0))[
    "params_axes"
  ]

  def names(tree):
    return {
      name: tuple(x.names)
      for name, x in {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree_util.tree_flatten_with_path(
          tree, is_leaf=lambda x: hasattr(x, "names")
        )[0]
      }.items()
    }

  assert names(axes) == names(variables["params_axes"])
