"""Job: a model of Hugging Face or of t5x from a checkpoint of ours."""

import json
import os

from mlm.checkpoints import hugging_face, safetensors, t5x
from mlm.jobs import models
from mlm.sharding import mesh as mesh_lib

_SHARD_BYTES = 5 * 10**9  # of a file, as theirs


def _write_hugging_face(output, config, params, dtype):
  safetensors.write(
    output,
    hugging_face.to_hugging_face(config, params),
    shapes=hugging_face.shapes(config),
    dtype=dtype,
    shard_bytes=_SHARD_BYTES,
  )
  with open(os.path.join(output, "config.json"), "w") as f:
    json.dump(
      {**hugging_face.write_config(config), "dtype": dtype}, f, indent=1
    )


def _write_t5x(output, config, params, dtype):
  t5x.write(os.path.join(output, "checkpoint_0"), config, params, dtype=dtype)


_WRITE = {"hugging_face": _write_hugging_face, "t5x": _write_t5x}


def export_checkpoint(
  *, initial: str, output: str, format: str, mesh_shape: dict, dtype: str
) -> None:
  """Writes files that transformers or t5x loads.

  Args:
    initial: output directory of the job whose model it is.
    output: folder for the files.
    format: "hugging_face", config.json and safetensors files; or "t5x", a
      folder checkpoint_0 in its legacy format, which of a decoder t5x reads
      with gin/t5x.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    dtype: "float32" or "bfloat16", of the files.

  Raises:
    ValueError: if the format, or what it has to hold, is not here.
  """
  if format not in _WRITE:
    raise ValueError(f"format {format!r}: choose {', '.join(_WRITE)}")
  mesh = mesh_lib.make_mesh(mesh_shape)
  opened = models.open_model(initial, mesh=mesh, metadata={})
  if opened.adapters is not None:
    raise ValueError(
      f"{initial} holds language or task adapters, for which {format} has no "
      "place; export the model below them"
    )
  _WRITE[format](output, opened.config, opened.params, dtype)
  print(f"{opened.config.vocab_size:,} pieces, {format}: {output}")
