"""Our models in the place of the linen modules that t5x's own models call.

Of a module they call init and apply, and nothing else: here these are functions
around ours.

    python -m t5x.train --gin_file=gin/t5x/mt5.gin …

An encoder–decoder has the params of t5x's networks (examples/t5, or scalable_t5
where each layer has its relative bias), by their names: their checkpoints are
its checkpoints. A decoder, of which t5x has no like, has ours.

The mesh in context is t5x's: its axes are data and model, params are split as
its rules say of the axes named here, and the compiler lays activations out as
params and batch demand. No kernel runs, on no platform, for none would be split.

Letters: B rows, S encoder length, T decoder length, D model width, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import partitioning

from mlm.checkpoints import t5x as t5x_checkpoints
from mlm.models import backends, families

# Our logical axes -> t5x's.
_AXES = {
  "vocab": "vocab",
  "embed": "embed",
  "mlp": "mlp",
  "heads": "heads",
  "kv_heads": "heads",
  "head_width": "kv",
  "buckets": "relpos_buckets",
}
# Sizes by which axes are known again, alone or joined, after a change of layout:
# primes, larger than there are layers.
_SIZES = dict(zip(_AXES, (10007, 10009, 10037, 10039, 10061, 10067, 10069)))


def logical_axes(config: families.Config) -> dict[str, Any]:
  """t5x's tree of params, its leaves tuples of t5x's logical axis names."""
  model = families.build(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0))

  def sized(axes, param):
    shape = [_SIZES.get(axis, n) for axis, n in zip(axes, param.shape)]
    return jax.ShapeDtypeStruct(shape, param.dtype)

  laid_out = jax.eval_shape(
    functools.partial(t5x_checkpoints.traced_to_t5x, config),
    jax.tree.map(
      sized, model.logical_axes(), abstract, is_leaf=lambda x: type(x) is tuple
    ),
  )

  def name(size):
    joined = [_AXES[axis] for axis, n in _SIZES.items() if size % n == 0]
    return {0: "layers", 1: "".join(joined), 2: "joined_kv"}[len(joined)]

  return jax.tree.map(lambda x: tuple(map(name, x.shape)), laid_out)


def _annotations(axes: dict[str, Any]) -> dict[str, Any]:
  """As `param_with_axes` leaves them: a param's name with _axes behind it."""
  made = {}
  for name, of in axes.items():
    if isinstance(of, dict):
      made[name] = _annotations(of)
    else:
      made[f"{name}_axes"] = partitioning.AxisMetadata(of)
  return made


def _without_mesh():
  """Ours constrain activations by axes of our own mesh, which t5x's is not."""
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


@dataclasses.dataclass(frozen=True)
class _Module:
  """A model of ours with init and apply as a linen module has them.

  Attributes:
    config: of the model.
    dropout_rate: 0.0; t5x's gin files have it.
  """

  config: families.Config
  dropout_rate: float

  def __post_init__(self):
    if self.dropout_rate:
      raise ValueError(
        f"DROPOUT_RATE is {self.dropout_rate}, but our models have no dropout; "
        "set it to 0.0, with which T5 1.1 and mT5 were pretrained"
      )

  def init(self, key, *inputs, **options):
    """{"params", "params_axes"} by t5x's names; of the inputs nothing is read."""
    del inputs, options
    with _without_mesh():
      params = families.build(self.config).init(key)
      return {
        "params": t5x_checkpoints.traced_to_t5x(self.config, params),
        "params_axes": _annotations(logical_axes(self.config)),
      }

  def encode(self, *inputs, **options):
    """What t5x names when it is to decode; raises ValueError."""
    del inputs, options
    raise ValueError(
      "t5x is to decode, which is not here; import the checkpoint (job "
      "import_checkpoint) and decode by mlm.decoding"
    )

  def apply(
    self, variables, *inputs, rngs=None, mutable=False, method=None, **options
  ):
    """Logits, float32 [B, T, V]; where something is mutable, with nothing.

    Args:
      variables: {"params"} as `init` makes them.
      *inputs: of `batch`.
      rngs: not read: nothing is random.
      mutable: names of collections, of which there are none.
      method: None.
      **options: of `batch`, and decode and enable_dropout.

    Raises:
      ValueError: if t5x is to decode, or of `batch`.
    """
    del rngs
    if options.pop("decode", False) or method is not None:
      self.encode()
    options.pop("enable_dropout", None)
    batch = self.batch(*inputs, **options)
    config = self.config
    model = families.build(config, backends=backends.PLAIN)
    with _without_mesh():
      params = t5x_checkpoints.traced_from_t5x(config, variables["params"])
      outputs = model.apply(params, batch)
      logits = jnp.einsum(
        "BTD,DV->BTV",
        outputs["hidden"],
        outputs["unembedding"],
        preferred_element_type=jnp.float32,
      )
    logits = partitioning.with_sharding_constraint(
      logits, ("batch", "length", "vocab")
    )
    return (logits, {}) if mutable else logits


def _real(tokens: jax.Array) -> jax.Array:
  """Segment ids of rows that are not packed."""
  return (tokens > 0).astype(jnp.int32)


class EncoderDecoder(_Module):
  """What `t5x.models.EncoderDecoderModel` takes as `module`."""

  def __post_init__(self):
    super().__post_init__()
    t5x_checkpoints.check_fixed(self.config)

  def batch(
    self,
    encoder_input_tokens,
    decoder_input_tokens,
    decoder_target_tokens,
    encoder_segment_ids=None,
    decoder_segment_ids=None,
    encoder_positions=None,
    decoder_positions=None,
  ):
    """What ours reads of t5x's [B, S] and [B, T]; without segments, one a row."""
    del encoder_positions, decoder_positions  # places in the row count
    if encoder_segment_ids is None:
      encoder_segment_ids = _real(encoder_input_tokens)
    if decoder_segment_ids is None:
      decoder_segment_ids = _real(decoder_target_tokens)
    return {
      "encoder_input_tokens": encoder_input_tokens,
      "encoder_segment_ids": encoder_segment_ids,
      "decoder_input_tokens": decoder_input_tokens,
      "decoder_segment_ids": decoder_segment_ids,
    }


class Decoder(_Module):
  """What `t5x.models.DecoderOnlyModel` takes as `module`."""

  def __post_init__(self):
    super().__post_init__()
    if self.config.moe is not None:
      raise ValueError(
        "the model has experts, but t5x's models have no place for the losses "
        "of their router; train it with `python -m mlm.run pretrain`"
      )

  def batch(
    self,
    decoder_input_tokens,
    decoder_target_tokens,
    decoder_segment_ids=None,
    decoder_positions=None,
    decoder_causal_attention=None,
  ):
    """What ours reads of t5x's [B, T]; without segments, one a row.

    Raises:
      ValueError: if a prefix is to see all of itself.
    """
    if decoder_causal_attention is not None:
      raise ValueError(
        "inputs_bidirectional_attention is on, but our decoders are causal; set "
        "DecoderOnlyModel.inputs_bidirectional_attention to False"
      )
    if decoder_segment_ids is None:
      decoder_segment_ids = _real(decoder_target_tokens)
    if decoder_positions is None:
      decoder_positions = jnp.broadcast_to(
        jnp.arange(decoder_input_tokens.shape[1]), decoder_input_tokens.shape
      )
    return {
      "decoder_input_tokens": decoder_input_tokens,
      "decoder_segment_ids": decoder_segment_ids,
      "decoder_positions": decoder_positions,
    }
