"""t5x's checkpoints and numbers: its logits, its losses, its files."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorstore

from benchmarks import t5x_parity as parity
from mlm.checkpoints import t5x
from mlm.models import encdec
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import adafactor, loss_weights, losses, schedules

# What t5x computed; see benchmarks/t5x_parity.py.
GOLDEN = json.loads(
  (
    pathlib.Path(__file__).parents[2] / "testdata" / "t5x_losses.json"
  ).read_text()
)["cases"]


def _tensors(case):
  return {
    name: parity.weights(name, tuple(shape))
    for name, shape in GOLDEN[case]["shapes"].items()
  }


def _config(tensors):
  return t5x.read_config(tensors, activation_dtype="float32", remat="none")


def _params(config, tensors):
  abstract = jax.eval_shape(encdec.build(config).init, jax.random.key(0))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return t5x.from_t5x(
    config, tensors, shardings=jax.tree.map(lambda _: device, abstract)
  )


def _nested(tensors):
  tree = {}
  for name, tensor in tensors.items():
    *parents, last = name.split("/")
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = tensor
  return tree


def _write_legacy(folder, tensors):
  """As t5x does: matrices in zarr folders of small files, the rest inline."""
  folder.mkdir()
  target = {}
  for name, tensor in tensors.items():
    target[name] = tensor
    if tensor.ndim > 1:
      path = "target." + name.replace("/", ".")
      spec = {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": path},
        "metadata": {
          "shape": list(tensor.shape),
          "chunks": [-(-tensor.shape[0] // 2), *tensor.shape[1:]],
          "compressor": {"id": "gzip", "level": 1},
        },
      }
      here = {"driver": "file", "path": str(folder / path)}
      store = tensorstore.open({**spec, "kvstore": here}, create=True).result()
      store.write(tensor).result()
      # Published ones tell of a bucket that nobody has.
      target[name] = {
        **spec,
        "kvstore": {"driver": "gcs", "bucket": "dummy", "path": path},
      }
  state = {"step": np.int32(7), "param_states": {"v": np.zeros(1)}}
  (folder / "checkpoint").write_bytes(
    ocp.msgpack_utils.msgpack_serialize(
      {
        "version": 3,
        "optimizer": {"state": state, "target": _nested(target)},
      }
    )
  )


def _write_orbax(folder, tensors):
  tree = {
    "target": _nested(tensors),
    "state": {"step": np.int32(7), "param_states": {"v": np.zeros(1)}},
  }
  with ocp.PyTreeCheckpointer(use_ocdbt=True) as checkpointer:
    checkpointer.save(folder / "state", tree)


@pytest.mark.parametrize("case", parity.CASES)
def test_names_and_shapes_are_those_of_t5x_and_come_back(case):
  tensors = _tensors(case)
  config = _config(tensors)
  is_scanned = parity.CASES[case][1]
  assert config == encdec.EncoderDecoderConfig(
    vocab_size=256,
    num_encoder_layers=2,
    num_decoder_layers=3,
    d_model=128,
    d_ff=192,
    num_heads=4,
    head_dim=48,
    num_buckets=32,
    max_distance=128,
    relative_bias="stack" if case == "t5" else "layer",
    norm_epsilon=1e-6,
    activation_dtype="float32",
    remat="none",
  )
  assert t5x.shapes(config, is_scanned=is_scanned) == {
    name: x.shape for name, x in tensors.items()
  }
  params = _params(config, tensors)
  assert sum(x.size for x in tensors.values()) == sum(
    x.size for x in jax.tree.leaves(params)
  )


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_logits_and_losses_of_eight_adafactor_steps_are_those_of_t5x(case):
  """Float32 against float32, in another order of sums."""
  tensors = _tensors(case)
  config = _config(tensors)
  model = encdec.build(config)
  params, batch = _params(config, tensors), parity.batch()
  outputs = jax.jit(model.apply)(params, batch)
  logits = np.asarray(outputs["hidden"] @ outputs["unembedding"])
  found, golden = parity.summary(logits), GOLDEN[case]["logits"]
  real = batch["decoder_segment_ids"] > 0
  np.testing.assert_allclose(found["last"], golden["last"], atol=1e-4, rtol=0)
  for name in ("logsumexp", "weighted"):
    # Sums of 256 logits and a cosine each.
    np.testing.assert_allclose(
      np.array(found[name])[real],
      np.array(golden[name])[real],
      atol=1e-3 if name == "weighted" else 1e-4,
      rtol=0,
    )
  loss_fn = losses.cross_entropy_loss(
    model.apply,
    z_loss=1e-4,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend="reference",
    num_languages=1,
  )
  batch["decoder_language_ids"] = np.zeros_like(batch["decoder_segment_ids"])
  optimizer = adafactor.adafactor(
    learning_rate=schedules.inverse_square_root(base=1.0, warmup_steps=10000),
    decay_exponent=0.8,
    clipping_threshold=1.0,
    # What t5x scans, it factors whatever its size.
    min_dim_size_to_factor=1 if parity.CASES[case][1] else 128,
  )(model.logical_axes())

  @jax.jit
  def step(params, state):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, None, batch, None
    )
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  state, found = optimizer.init(params), []
  for _ in range(parity.NUM_STEPS):
    params, state, loss = step(params, state)
    found.append(float(loss) * batch["decoder_loss_weights"].sum())
  golden = GOLDEN[case]["losses"]
  assert found[0] == pytest.approx(golden[0], rel=1e-6)
  np.testing.assert_allclose(found, golden, rtol=1e-4)
  assert golden[-1] < 0.9 * golden[0]


@pytest.mark.parametrize("case", parity.CASES)
@pytest.mark.parametrize("write", [_write_legacy, _write_orbax])
def test_both_formats_are_read_without_the_optimizer(tmp_path, case, write):
  tensors = _tensors(case)
  folder = tmp_path / "checkpoint_7"
  write(folder, tensors)
  found = t5x.read(str(folder))
  assert set(found) == set(tensors)
  assert _config(found) == _config(tensors)
  config = _config(found)
  jax.tree.map(
    np.testing.assert_array_equal,
    _params(config, found),
    _params(config, tensors),
  )


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_what_is_written_is_read_again(tmp_path, case):
  tensors = _tensors(case)
  config = _config(tensors)
  params = _params(config, tensors)
  folder = str(tmp_path / "checkpoint_0")
  t5x.write(folder, config, params, dtype="float32")
  found = t5x.read(folder)
  assert set(found) == set(tensors)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(np.asarray(found[name]), tensor)
  t5x.write(folder, config, params, dtype="bfloat16")
  np.testing.assert_array_equal(
    _params(config, t5x.read(folder))["embedding"],
    tensors["token_embedder/embedding"].astype(jnp.bfloat16).astype(np.float32),
  )


class _Counted:
  """An array that counts how often it is read."""

  def __init__(self, array):
    self.array, self.shape, self.reads = array, array.shape, 0

  def __array__(self, dtype=None, copy=None):
    self.reads += 1
    return self.array


@pytest.mark.parametrize("case", ["t5", "scalable_t5"])
def test_devices_have_their_parts_and_each_array_is_read_once(case):
  tensors = _tensors(case)
  config = _config(tensors)
  whole = _params(config, tensors)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(
    mesh, encdec.build(config).logical_axes(), whole
  )
  counted = {name: _Counted(x) for name, x in tensors.items()}
  split = t5x.from_t5x(config, counted, shardings=shardings)
  assert jax.tree.map(lambda x: x.sharding, split) == shardings
  jax.tree.map(np.testing.assert_array_equal, split, whole)
  assert {x.reads for x in counted.values()} == {1}


def test_all_that_is_wrong_with_the_names_is_told_at_once():
  tensors = _tensors("t5")
  config = _config(tensors)
  del tensors["decoder/layers_1/mlp/wo/kernel"]
  tensors["decoder/layers_1/mlp/wi/kernel"] = np.zeros((128, 192))
  tensors["encoder/encoder_norm/scale"] = np.zeros(127)
  with pytest.raises(ValueError) as error:
    _params(config, tensors)
  message = str(error.value)
  assert "missing decoder/layers_1/mlp/wo/kernel" in message
  assert "unexpected decoder/layers_1/mlp/wi/kernel" in message
  assert "encoder_norm/scale has shape [127], needed [128]" in message


def test_another_network_is_refused():
  with pytest.raises(ValueError, match="missing token_embedder/embedding"):
    _config({"decoder/layers_0/mlp/wi/kernel": np.zeros((4, 4))})


def test_files_that_are_gone_are_told_and_not_read_as_zeros(tmp_path):
  with pytest.raises(FileNotFoundError, match="neither a file checkpoint"):
    t5x.read(str(tmp_path))
  tensors = _tensors("t5")
  folder = tmp_path / "checkpoint_7"
  _write_legacy(folder, tensors)
  chunk = folder / "target.decoder.logits_dense.kernel" / "1.0"
  chunk.unlink()
  found = t5x.read(str(folder))
  with pytest.raises(ValueError, match="logits_dense.*1.0"):
    _params(_config(found), found)
  shutil.rmtree(chunk.parent)
  with pytest.raises(ValueError, match="lacks the folders .*logits_dense"):
    t5x.read(str(folder))
  database = tmp_path / "checkpoint_8"
  _write_orbax(database, tensors)
  data = max((database / "state").rglob("*"), key=lambda x: x.stat().st_size)
  os.remove(data)
  with pytest.raises(ValueError):
    found = t5x.read(str(database))
    _params(_config(found), found)


def test_a_model_that_t5x_lacks_is_not_written(tmp_path):
  tensors = _tensors("t5")
  config = _config(tensors)
  other = dataclasses.replace(config, max_distance=64)
  with pytest.raises(ValueError, match="max_distance"):
    t5x.write(str(tmp_path), other, _params(config, tensors), dtype="float32")
