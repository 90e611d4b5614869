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
from mlm.training import loss_weights, losses, optimizers, step
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
  optimizer: optimizers.MakeOptimizer,
  mesh: Mesh,
  batch_size: int,
  sequence_length: int,
  num_microbatches: int,
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
    num_microbatches: as for pretrain.
    z_loss: of `mlm.training.losses.cross_entropy_loss`.
    backends: kernels of the model.
    head_backend: of the loss's linear cross-entropy.

  Raises:
    ValueError: if the mesh does not divide the batch or a parameter.
  """
  step.check_microbatches(batch_size, num_microbatches, mesh)
  of_model = decoder.build(model, backends=backends)
  axes = of_model.logical_axes()
  made = optimizer(axes)
  abstract = train_state.abstract(init=of_model.init, optimizer=made)
  shardings = train_state.state_shardings(mesh, axes, abstract)
  function = step.make_train_step(
    loss_fn=losses.cross_entropy_loss(
      of_model.apply,
      z_loss=z_loss,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      backend=head_backend,
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=made,
    mesh=mesh,
    state_shardings=shardings,
    num_microbatches=num_microbatches,
  )
  batch = {
    name: jax.ShapeDtypeStruct(
      (batch_size, sequence_length),
      dtype,
      sharding=rules.tokens_sharding(mesh, (batch_size, sequence_length)),
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
