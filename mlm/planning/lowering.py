"""The train step of a run lowered on abstract arrays: nothing is allocated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlm.languages import registry
from mlm.models import backends as backends_lib
from mlm.models import decoder
from mlm.sharding import rules
from mlm.training import losses, optimizers, step
from mlm.training import state as train_state

_FEATURES = {
  "decoder_input_tokens": jnp.int32,
  "decoder_target_tokens": jnp.int32,
  "decoder_loss_weights": jnp.float32,
  "decoder_positions": jnp.int32,
  "decoder_segment_ids": jnp.int32,
  "decoder_language_ids": jnp.int32,
}


class TrainStep(NamedTuple):
  """A step as pretrain makes it, and abstract arguments to lower it on."""

  step: Callable
  arguments: tuple[Any, ...]
  state_shardings: train_state.TrainState


def train_step(
  *,
  model: decoder.DecoderConfig,
  optimizer: optimizers.Optimizer,
  mesh: Mesh,
  batch_size: int,
  sequence_length: int,
  z_loss: float,
  backends: backends_lib.Backends,
  head_backend: str,
) -> TrainStep:
  """The update of the job pretrain for a decoder, and its arguments.

  Args:
    model: shape of the model.
    optimizer: of `mlm.training.optimizers`.
    mesh: real or of devices that nobody has.
    batch_size: B, rows over all devices.
    sequence_length: T.
    z_loss: of `mlm.training.losses.cross_entropy_loss`.
    backends: kernels of the model.
    head_backend: of the loss's linear cross-entropy.

  Raises:
    ValueError: if the mesh does not divide the batch or a parameter.
  """
  rules.check_batch(batch_size, mesh)
  of_model = decoder.build(model, backends=backends)
  abstract = train_state.abstract(init=of_model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(
    mesh, of_model.logical_axes(), abstract
  )
  function = step.make_train_step(
    loss_fn=losses.cross_entropy_loss(
      of_model.apply,
      z_loss=z_loss,
      backend=head_backend,
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    mesh=mesh,
    state_shardings=shardings,
  )
  batch = {
    name: jax.ShapeDtypeStruct(
      (batch_size, sequence_length), dtype, sharding=rules.batch_sharding(mesh)
    )
    for name, dtype in _FEATURES.items()
  }
  arguments = (
    train_state.with_shardings(abstract, shardings),
    None,
    batch,
    jax.ShapeDtypeStruct((), jnp.int32),
  )
  return TrainStep(function, arguments, shardings)
