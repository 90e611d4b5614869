"""Job: a trained decoder for a tokenizer with pieces for new languages."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.checkpoints import manager
from mlm.checkpoints import params as params_lib
from mlm.jobs import models
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import extend, load
from mlm.tokenizers import initialization as initialization_lib
from mlm.training import state as train_state


def extend_model(
  *,
  base: str,
  tokenizer: str,
  initial: str,
  output: str,
  initialization: initialization_lib.Initialization,
  vocab_multiple: int,
  mesh_shape: dict,
  seed: int,
) -> None:
  """Gives a decoder rows for the new pieces; all else stays as it is.

  Args:
    base: tokenizer directory of the initial model.
    tokenizer: output directory of extend_tokenizer on that base.
    initial: output directory of pretrain or finetune.
    output: directory for the checkpoint that pretrain and finetune start from.
    initialization: of `mlm.tokenizers.initialization`.
    vocab_multiple: the new vocab_size is the next multiple of it; the devices
      of the mesh axis "tensor" of later runs must divide it.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    seed: of the rows that are drawn.

  Raises:
    ValueError: if the base is not the checkpoint's tokenizer, the tokenizer is
      no extension of it, or the output holds a model made otherwise.
  """
  mesh = mesh_lib.make_mesh(mesh_shape)
  old, new = load.load(base), load.load(tokenizer)
  extend.check_extension(old, new)
  if vocab_multiple < 1:
    raise ValueError(f"vocab_multiple {vocab_multiple} must be at least 1")
  base_sha256 = load.read_card(base)["model_sha256"]
  checkpoints = models.checkpoints_of(initial)
  found = manager.read_metadata(checkpoints)
  params_lib.check_metadata(
    {"tokenizer_sha256": found["tokenizer_sha256"]},
    {"tokenizer_sha256": base_sha256},
    where=checkpoints,
  )
  size = -(-new.get_piece_size() // vocab_multiple) * vocab_multiple
  initial_config = decoder.DecoderConfig(**found["model"])
  config = dataclasses.replace(initial_config, vocab_size=size)
  model = decoder.build(config)
  axes = model.logical_axes()
  shardings = rules.named_shardings(
    mesh, axes, jax.eval_shape(model.init, jax.random.key(0))
  )
  sha256 = load.read_card(tokenizer)["model_sha256"]
  checkpointer = manager.Checkpointer(
    models.checkpoints_of(output),
    keep=1,
    metadata={
      **models.metadata_of(config, sha256),
      "base_tokenizer_sha256": base_sha256,
      "initialization": {
        "method": type(initialization).__name__,
        **dataclasses.asdict(initialization),
      },
      "seed": seed,
    },
  )
  try:
    if checkpointer.latest_step() is None:
      weights = initialization(old, new)
      _, _, params = models.open_decoder(
        initial, mesh=mesh, tokenizer_sha256=base_sha256
      )
      drawn = weights.shape[0] - np.count_nonzero(np.diff(weights.indptr))
      print(
        f"vocab_size {initial_config.vocab_size:,} -> {size:,}: "
        f"{old.get_piece_size():,} rows kept, {weights.shape[0]:,} new, of "
        f"which {drawn:,} drawn"
      )
      params = extended_params(
        params, axes, weights, vocab_size=size, seed=seed
      )
      params = jax.tree.map(jax.device_put, params, shardings)
      checkpointer.save(0, train_state.TrainState(jnp.int32(0), params, ()))
  finally:
    checkpointer.close()
  print(f"Model: {output}")


def extended_params(
  params: Any, logical_axes: Any, weights: Any, *, vocab_size: int, seed: int
) -> Any:
  """Params whose tables over the vocabulary have the new rows.

  Args:
    params: of the base; rows of its tables behind its pieces are padding, and
      dropped.
    logical_axes: tree like params of tuples of logical axis names.
    weights: [N, V] of an `Initialization`, for every table alike.
    vocab_size: of the result.
    seed: of the rows that are drawn; each table has draws of its own.
  """
  leaves, structure = jax.tree.flatten(params)
  result = []
  for number, (param, axes) in enumerate(
    zip(leaves, structure.flatten_up_to(logical_axes))
  ):
    if "vocab" in axes:
      axis = axes.index("vocab")
      table = np.moveaxis(np.asarray(param), axis, 0)[: weights.shape[1]]
      table = initialization_lib.extended_table(
        table, weights, vocab_size=vocab_size, seed=(seed, number)
      )
      param = np.moveaxis(table, 0, axis)
    result.append(param)
  return structure.unflatten(result)
