"""Importing and exporting checkpoints, job after job."""

import json

import jax
import numpy as np
import pytest

from benchmarks import hugging_face_parity as parity
from mlm.checkpoints import hugging_face, safetensors
from mlm.jobs import export_checkpoint, import_checkpoint, models
from mlm.sharding import mesh as mesh_lib

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def _source(folder, case, **changes):
  """A folder as published: config.json and files of at most 20,000 bytes."""
  config_json = {**parity.CONFIGS[case], **changes}
  config = hugging_face.read_config(
    config_json, activation_dtype="float32", remat="none"
  )
  shapes = hugging_face.shapes(config)
  safetensors.write(
    str(folder),
    ((name, parity.weights(name, shape)) for name, shape in shapes.items()),
    shapes=shapes,
    dtype="float32",
    shard_bytes=20_000,
  )
  (folder / "config.json").write_text(json.dumps(config_json))


def _import(source, output, tokenizer="", model=None):
  import_checkpoint.import_checkpoint(
    source=str(source),
    model=model,
    tokenizer=str(tokenizer),
    output=str(output),
    mesh_shape=MESH,
    activation_dtype="float32",
    remat="none",
  )


@pytest.mark.parametrize("case", ["llama3.1", "mt5"])
def test_what_is_imported_is_exported_again(tmp_path, case):
  source, ours, theirs = (tmp_path / x for x in ("source", "ours", "theirs"))
  _source(source, case)
  _import(source, ours)
  export_checkpoint.export_checkpoint(
    initial=str(ours),
    output=str(theirs),
    format="hugging_face",
    mesh_shape=MESH,
    dtype="float32",
  )
  want, got = (safetensors.read(str(folder)) for folder in (source, theirs))
  assert list(got) == list(want)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])
  written = json.loads((theirs / "config.json").read_text())
  assert {**written, **parity.CONFIGS[case]} == written


def test_an_mt5_goes_to_t5x_and_comes_back(tmp_path):
  source, ours, theirs, again = (
    tmp_path / x for x in ("source", "ours", "theirs", "again")
  )
  _source(
    source,
    "mt5",
    relative_attention_num_buckets=32,  # as t5x's networks have them
    relative_attention_max_distance=128,
  )
  _import(source, ours)
  arguments = dict(
    initial=str(ours), output=str(theirs), mesh_shape=MESH, dtype="float32"
  )
  with pytest.raises(ValueError, match="choose hugging_face, t5x"):
    export_checkpoint.export_checkpoint(format="t5", **arguments)
  export_checkpoint.export_checkpoint(format="t5x", **arguments)
  _import(theirs / "checkpoint_0", again)
  mesh = mesh_lib.make_mesh(MESH)
  (config, _, _, want), (same, _, _, got) = (
    models.open_model(str(x), mesh=mesh, metadata={}) for x in (ours, again)
  )
  assert same == config
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_jobs_open_an_imported_decoder_with_its_tokenizer_alone(tmp_path):
  mesh = mesh_lib.make_mesh(MESH)
  tokenizer, source, ours = (tmp_path / x for x in ("tok", "source", "ours"))
  tokenizer.mkdir()
  (tokenizer / "card.json").write_text(json.dumps({"model_sha256": "3fa9"}))
  _source(source, "aya23")
  _import(source, ours, tokenizer)
  config, _, params = models.open_decoder(
    str(ours), mesh=mesh, tokenizer_sha256="3fa9"
  )
  assert config.parallel_block and config.logit_scale == 0.0625
  np.testing.assert_array_equal(
    params["embedding"],
    parity.weights("model.embed_tokens.weight", (64, 32)),
  )
  assert not params["embedding"].sharding.is_fully_replicated
  with pytest.raises(ValueError, match="tokenizer_sha256"):
    models.open_decoder(str(ours), mesh=mesh, tokenizer_sha256="other")


def test_jobs_for_decoders_refuse_an_encoder_decoder(tmp_path):
  _source(tmp_path / "source", "umt5")
  _import(tmp_path / "source", tmp_path / "ours")
  with pytest.raises(ValueError, match="needs a decoder-only model"):
    models.open_decoder(
      str(tmp_path / "ours"),
      mesh=mesh_lib.make_mesh(MESH),
      tokenizer_sha256=None,
    )
