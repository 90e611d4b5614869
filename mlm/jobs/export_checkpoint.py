"""Job: a model of Hugging Face from a checkpoint of ours."""

import json
import os

from mlm.checkpoints import hugging_face, safetensors
from mlm.jobs import models
from mlm.sharding import mesh as mesh_lib

_SHARD_BYTES = 5 * 10**9  # of a file, as theirs


def export_checkpoint(
  *, initial: str, output: str, mesh_shape: dict, dtype: str
) -> None:
  """Writes config.json and safetensors files that transformers loads.

  Args:
    initial: output directory of the job whose model it is.
    output: folder for the files.
    mesh_shape: {"data", "fsdp", "tensor"} -> devices.
    dtype: "float32" or "bfloat16", of the files.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  opened = models.open_model(initial, mesh=mesh, metadata={})
  if opened.adapters is not None:
    raise ValueError(
      f"{initial} holds language or task adapters, which the formats of Hugging "
      "Face's models have no place for; export the model below them"
    )
  config = opened.config
  safetensors.write(
    output,
    hugging_face.to_hugging_face(config, opened.params),
    shapes=hugging_face.shapes(config),
    dtype=dtype,
    shard_bytes=_SHARD_BYTES,
  )
  with open(os.path.join(output, "config.json"), "w") as f:
    json.dump(
      {**hugging_face.write_config(config), "dtype": dtype}, f, indent=1
    )
  print(
    f"{config.vocab_size:,} pieces, {hugging_face.family_of(config)}: {output}"
  )
