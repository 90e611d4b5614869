"""From a checkpoint to one for more languages, and on with training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from mlm import run
from mlm.checkpoints import manager
from mlm.jobs import extend_model, models
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import count, initialization, load
from mlm.training import state as train_state
from tests import tiny_models

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
CONFIG = dataclasses.replace(tiny_models.DECODER, vocab_size=432)


def _batch(tokens):
  return {
    "decoder_input_tokens": tokens,
    "decoder_segment_ids": np.ones_like(tokens),
    "decoder_positions": np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)),
  }


def _sha256(directory):
  return load.read_card(directory)["model_sha256"]


def _params(config):
  """Drawn with numpy: compiling the init takes longer than all else here."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(decoder.build(config).init, jax.random.key(0))
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes
  )


def _save(output, sha256):
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(output),
    keep=1,
    metadata=models.metadata_of(CONFIG, sha256),
  )
  params = _params(CONFIG)
  checkpointer.save(3, train_state.TrainState(jnp.int32(3), params, ()))
  checkpointer.close()


@pytest.fixture(scope="module")
def initial(extension, tmp_path_factory):
  """Output directory with a checkpoint of fresh params for the base."""
  output = str(tmp_path_factory.mktemp("initial"))
  _save(output, _sha256(extension.base))
  return output


@pytest.fixture(scope="module")
def extended_model(extension, initial, tmp_path_factory):
  """Output directory of the job."""
  output = str(tmp_path_factory.mktemp("extended"))
  assert _run(extension, initial, output) == 0
  return output


def _run(extension, initial, output, *flags):
  return run.main(
    [
      "extend_model",
      "--gin_file=gin/jobs/extend_model.gin",
      f"--gin.BASE={extension.base}",
      f"--gin.TOKENIZER={extension.extended}",
      f"--gin.INITIAL={initial}",
      f"--gin.OUTPUT={output}",
      f"--gin.MESH_SHAPE={MESH}",
      *flags,
    ]
  )


@pytest.mark.parametrize("is_tied", [True, False])
def test_logits_of_old_tokens_stay(extension, is_tied):
  config = dataclasses.replace(CONFIG, tie_embeddings=is_tied)
  base, extended = load.load(extension.base), load.load(extension.extended)
  size = base.get_piece_size()
  model = decoder.build(config)
  params = _params(config)
  larger = dataclasses.replace(config, vocab_size=1024)
  new_params = extend_model.extended_params(
    params,
    model.logical_axes(),
    initialization.MeanOfParts()(base, extended),
    vocab_size=1024,
    seed=0,
  )
  tokens = np.random.default_rng(0).integers(0, size, (3, 12), np.int32)
  before = jax.jit(model.apply)(params, _batch(tokens))
  after = jax.jit(decoder.build(larger).apply)(new_params, _batch(tokens))
  np.testing.assert_array_equal(before["hidden"], after["hidden"])
  np.testing.assert_array_equal(
    before["unembedding"][:, :size], after["unembedding"][:, :size]
  )
  # Products of other widths may be summed in another order.
  np.testing.assert_allclose(
    (before["hidden"] @ before["unembedding"])[..., :size],
    (after["hidden"] @ after["unembedding"])[..., :size],
    rtol=1e-5,
    atol=1e-5,
  )
  new_id = size + 4
  parts = initialization.MeanOfParts()(base, extended)[[4]].toarray()[0]
  np.testing.assert_allclose(
    new_params["embedding"][new_id], parts @ params["embedding"][:size], 1e-5
  )
  if not is_tied:
    np.testing.assert_allclose(
      new_params["unembedding"][:, new_id],
      params["unembedding"][:, :size] @ parts,
      1e-5,
    )


def test_tables_are_drawn_each_from_its_own_rows(extension):
  base, extended = load.load(extension.base), load.load(extension.extended)
  size = base.get_piece_size()
  model = decoder.build(CONFIG)
  params = _params(CONFIG)
  params["unembedding"] = 5 + 2 * params["unembedding"]
  got = extend_model.extended_params(
    params,
    model.logical_axes(),
    initialization.Random()(base, extended),
    vocab_size=extended.get_piece_size(),
    seed=0,
  )
  new, out = got["embedding"][size:], got["unembedding"][:, size:].T
  assert abs(new.mean()) < 0.05 and abs(out.mean() - 5) < 0.05
  correlation = np.corrcoef(new.ravel(), out.ravel())[0, 1]
  assert abs(correlation) < 0.1


def test_the_job_writes_a_checkpoint_to_go_on_from(
  extension, initial, extended_model, capsys
):
  output = extended_model
  extended = load.load(extension.extended)
  mesh = mesh_lib.make_mesh(MESH)
  config, _, params = models.open_decoder(
    output, mesh=mesh, tokenizer_sha256=_sha256(extension.extended)
  )
  assert config.vocab_size % 128 == 0
  assert 0 <= config.vocab_size - extended.get_piece_size() < 128
  assert config == dataclasses.replace(CONFIG, vocab_size=config.vocab_size)
  _, _, before = models.open_decoder(
    initial, mesh=mesh, tokenizer_sha256=_sha256(extension.base)
  )
  size = load.load(extension.base).get_piece_size()
  assert size < CONFIG.vocab_size  # padding of the initial model is dropped
  np.testing.assert_array_equal(
    before["embedding"][:size], params["embedding"][:size]
  )
  for name in ("layers", "final_norm"):
    jax.tree.map(np.testing.assert_array_equal, before[name], params[name])
  assert _run(extension, initial, output) == 0  # finished: returned at once
  assert "rows kept" not in capsys.readouterr().out
  random = "--gin_file=gin/data/rows_at_random.gin"
  assert _run(extension, initial, output, random) != 0
  assert "MeanOfParts" in capsys.readouterr().err


@pytest.fixture
def tasks_of_its_own():
  """Takes the tasks of cache_tokens away again: other tests have other ones."""
  yield
  for name in list(seqio.TaskRegistry.names()):
    if name.startswith("mc4."):
      seqio.TaskRegistry.remove(name)


@pytest.mark.usefixtures("tasks_of_its_own")
def test_pretraining_goes_on_from_it(
  extension, extended_model, tmp_path, capsys
):
  output, tokens = extended_model, str(tmp_path / "tokens")
  metadata = manager.read_metadata(models.checkpoints_of(output))
  vocab_size = metadata["model"]["vocab_size"]
  count.count_tokens(
    corpus=extension.all, tokenizer=extension.extended, num_threads=1
  )
  assert (
    run.main(
      [
        "cache_tokens",
        "--gin_file=gin/experiments/quickstart/cache_tokens.gin",
        f"--gin.CORPUS={extension.all}",
        f"--gin.TOKENIZER={extension.extended}",
        f"--gin.OUTPUT={tokens}",
      ]
    )
    == 0
  )

  def pretrain(name, *flags):
    return run.main(
      [
        "pretrain",
        "--gin_file=gin/experiments/quickstart/pretrain.gin",
        "--gin_file=gin/overlays/tiny/pretrain.gin",
        f"--gin.TOKENS={tokens}",
        f"--gin.TOKENIZER={extension.extended}",
        f"--gin.OUTPUT={tmp_path / name}",
        f"--gin.INITIAL={output}",
        f"--gin.MESH_SHAPE={MESH}",
        f"--gin.VOCAB_SIZE={vocab_size}",
        "--gin.SEQUENCE_LENGTH=16",
        *flags,
      ]
    )

  capsys.readouterr()
  assert pretrain("other") != 0  # the overlay's width is not the checkpoint's
  assert "d_model: checkpoint 16, expected 64" in capsys.readouterr().err
  shape = [
    f"--gin.mlm.models.decoder.DecoderConfig.{name}={value!r}"
    for name, value in metadata["model"].items()
    if name not in ("vocab_size", "d_model", "num_layers")
  ]
  assert (
    pretrain("more", "--gin.D_MODEL=16", *shape, "--gin.LEARNING_RATE=1e-30")
    == 0
  )
  mesh, sha256 = mesh_lib.make_mesh(MESH), _sha256(extension.extended)
  _, _, before = models.open_decoder(output, mesh=mesh, tokenizer_sha256=sha256)
  _, _, after = models.open_decoder(
    str(tmp_path / "more"), mesh=mesh, tokenizer_sha256=sha256
  )
  # At a rate of nothing it ends where it began: there and nowhere else.
  jax.tree.map(np.testing.assert_array_equal, before, after)
  lines = (tmp_path / "more" / "metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[-1])["step"] == 3


def test_what_does_not_belong_together_is_refused(
  extension, initial, tmp_path, capsys
):
  output = str(tmp_path / "extended")

  def told(*flags):
    assert _run(extension, initial, output, *flags) != 0
    return capsys.readouterr().err

  assert "no extension of the base" in told(f"--gin.BASE={extension.second}")
  assert "no extension of one of" in told(f"--gin.TOKENIZER={extension.base}")
  assert "no checkpoint" in told(f"--gin.INITIAL={tmp_path}")
  assert "vocab_multiple 0" in told("--gin.VOCAB_MULTIPLE=0")
  assert "is not divisible by" in told("--gin.VOCAB_MULTIPLE=777")
  other = str(tmp_path / "other")
  _save(other, "3fa9")
  message = told(f"--gin.INITIAL={other}")
  assert 'tokenizer_sha256: checkpoint "3fa9"' in message
  assert not (tmp_path / "extended" / "checkpoints").exists()
