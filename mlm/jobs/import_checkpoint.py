"""Job: a checkpoint of ours from a model of Hugging Face or of t5x."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp

from mlm.checkpoints import hugging_face, manager, safetensors, t5x
from mlm.jobs import models
from mlm.models import families
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load
from mlm.training import state as train_state


def import_checkpoint(
  *,
  source: str,
  model: families.Config | None,
  tokenizer: str,
  output: str,
  mesh_shape: dict,
  activation_dtype: str,
  remat: str,
) -> None:
  """Reads a model's files; writes a checkpoint at step 0.

  Args:
    source: folder with config.json and safetensors files, of the model types in
      `mlm.checkpoints.hugging_face_tables`; or a folder checkpoint_<step> of
      t5x, of T5 1.1, mT5, umT5 or, trained by gin/t5x, of a decoder.
    model: shape of t5x's decoder, of which its files do not tell; else None.
    tokenizer: directory of the tokenizer that the model was trained with; "" if
      it is not one of ours, and then jobs that read text refuse the model.
    output: directory for checkpoints.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    activation_dtype: "float32" or "bfloat16", of the jobs that follow.
    remat: "none", "minimal" or "full", of the jobs that follow.

  Raises:
    ValueError: if the model is given where the files tell it.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  fields = {"activation_dtype": activation_dtype, "remat": remat}
  if t5x.is_checkpoint(source):
    tensors, from_tensors = t5x.read(source), t5x.from_t5x
    if model is None:
      config = t5x.read_config(tensors, **fields)
    else:
      config = dataclasses.replace(model, **fields)
  elif model is not None:
    raise ValueError(
      f"{source} is no checkpoint of t5x, and its config.json tells the model; "
      "leave MODEL at None"
    )
  else:
    from_tensors = hugging_face.from_hugging_face
    with open(os.path.join(source, "config.json")) as f:
      config = hugging_face.read_config(json.load(f), **fields)
    tensors = safetensors.read(source)
  sha256 = load.read_card(tokenizer)["model_sha256"] if tokenizer else None
  model = families.build(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  params = from_tensors(
    config,
    tensors,
    shardings=rules.named_shardings(mesh, model.logical_axes(), abstract),
  )
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(output),
    keep=1,
    metadata=models.metadata_of(config, sha256),
  )
  try:
    checkpointer.save(0, train_state.TrainState(jnp.int32(0), params, ()))
  finally:
    checkpointer.close()
  num_params = sum(x.size for x in jax.tree.leaves(params))
  print(f"{num_params:,} parameters: {output}")
