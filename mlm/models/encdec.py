"""Encoder–decoders: T5 1.1, mT5 and umT5.

Attention knows positions by a bias on its logits alone, one a head and bucket
of distances. Distances are counted between slots of a row, not between
positions: within a segment, whose tokens are contiguous, they are the same.

Letters: B rows, S encoder length, T decoder length, D model width, N heads,
H head width, L layers, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlm.models import caches, fields, layers, masks, position_encodings
from mlm.sharding import rules

_RESIDUAL = ("batch", "length", "embed")


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
  """Shape of an encoder–decoder.

  Attributes:
    vocab_size: V, rows of the embedding table, which both sides share.
    num_encoder_layers: L of the encoder.
    num_decoder_layers: L of the decoder.
    d_model: D.
    d_ff: F, width of the gated MLPs.
    num_heads: N.
    head_dim: H; N H need not be D.
    num_buckets: of relative distances, a multiple of 4.
    max_distance: in tokens; all distances from here on share a bucket.
    relative_bias: "stack", one table for all layers of encoder or decoder (T5
      1.1, mT5), or "layer", one for each layer (umT5).
    norm_epsilon: of the RMS norms.
    activation_dtype: "float32" or "bfloat16"; params are float32.
    remat: what the backward pass recomputes: "none", "minimal" (all but the
      products with weights) or "full" (every block).
  """

  vocab_size: int
  num_encoder_layers: int
  num_decoder_layers: int
  d_model: int
  d_ff: int
  num_heads: int
  head_dim: int
  num_buckets: int
  max_distance: int
  relative_bias: str
  norm_epsilon: float
  activation_dtype: str
  remat: str

  def __post_init__(self):
    fields.check(
      self, {"relative_bias": ("stack", "layer"), "remat": layers.REMAT}
    )
    fields.check_positive(self, ("norm_epsilon",))
    if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 2:
      raise ValueError(
        f"num_buckets {self.num_buckets} and max_distance {self.max_distance}: "
        "a multiple of 4, and a distance above half of it, are needed"
      )


class EncoderDecoder(NamedTuple):
  """A model as pure functions; see docs/architecture.md, contract 4."""

  init: Callable[[jax.Array], Any]
  apply: Callable[[Any, dict], dict]
  encode: Callable[[Any, jax.Array, jax.Array], jax.Array]
  init_cache: Callable[..., dict]
  extend: Callable[..., tuple[dict, dict]]
  logical_axes: Callable[[], Any]


def _relative_bias(module, config, mask, index, is_bidirectional):
  """Float32 [N, T, S] of a table that the module owns.

  Args:
    module: encoder or decoder, or one of their layers.
    config: of the model.
    mask: bool [B, T, S].
    index: int32 scalar, slot of the first of the T tokens.
    is_bidirectional: as for the buckets.
  """
  query_slots, key_slots = (jnp.arange(n) for n in mask.shape[1:])
  table = layers.parameter(
    module,
    "relative_bias",
    nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    ("buckets", "heads"),
    (config.num_buckets, config.num_heads),
  )
  buckets = position_encodings.relative_buckets(
    key_slots - (index + query_slots)[:, None],
    is_bidirectional=is_bidirectional,
    num_buckets=config.num_buckets,
    max_distance=config.max_distance,
  )
  # A product, and so is its gradient; that of a lookup would add a square of
  # rows into a few, one after the other.
  one_hot = jax.nn.one_hot(buckets, config.num_buckets)
  bias = jnp.einsum("TSb,bN->NTS", one_hot, table, precision="highest")
  return rules.constrain(bias, ("heads", "length", "length"))


class _Block(nn.Module):
  """Of the encoder, or with cross-attention of the decoder."""

  config: EncoderDecoderConfig
  is_decoder: bool

  @nn.compact
  def __call__(self, x, cache, encoded, mask, cross_mask, bias, index):
    config = self.config

    def norm(name):
      return layers.Norm("rms", config.norm_epsilon, use_bias=False, name=name)

    def attention(name):
      return layers.Attention(
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.head_dim,
        is_scaled=False,
        rotate=None,
        use_biases=False,
        name=name,
      )

    own, cross = (None, None) if cache is None else cache
    if bias is None:
      bias = _relative_bias(self, config, mask, index, not self.is_decoder)
    normed = norm("attention_norm")(x)
    attended, own = attention("attention")(
      normed, normed, own, None, mask, bias, index
    )
    x = rules.constrain(x + attended, _RESIDUAL)
    if self.is_decoder:
      attended, _ = attention("cross_attention")(
        norm("cross_attention_norm")(x),
        encoded,
        cross,
        None,
        cross_mask,
        None,
        index,
      )
      x = rules.constrain(x + attended, _RESIDUAL)
    mlp = layers.MLP("geglu", config.d_ff, use_biases=False, name="mlp")
    x = x + mlp(norm("mlp_norm")(x))
    return rules.constrain(x, _RESIDUAL), own


class _Stack(nn.Module):
  config: EncoderDecoderConfig
  is_decoder: bool

  @nn.compact
  def __call__(self, x, caches, encoded, mask, cross_mask, index):
    """Returns (hidden [B, T, D], caches of self-attention).

    Args:
      x: embedded tokens, [B, T, D].
      caches: None, or two {"keys", "values"} of [L, B, slots, N, H]: of self-
        and of cross-attention.
      encoded: [B, S, D], or None where the cache has its keys.
      mask: bool [B, T, slots].
      cross_mask: bool [B, T, S], or None in the encoder.
      index: int32 scalar, slot of the first token.
    """
    config = self.config
    bias = None
    if config.relative_bias == "stack":
      bias = _relative_bias(self, config, mask, index, not self.is_decoder)
    depth = "num_decoder_layers" if self.is_decoder else "num_encoder_layers"
    stack = layers.stack(
      _Block,
      num_layers=getattr(config, depth),
      remat=config.remat,
      num_shared=5,
    )
    x, caches = stack(config, self.is_decoder, name="layers")(
      x, caches, encoded, mask, cross_mask, bias, index
    )
    norm = layers.Norm("rms", config.norm_epsilon, False, name="final_norm")
    return norm(x), caches


class _EncoderDecoder(nn.Module):
  config: EncoderDecoderConfig

  def setup(self):
    config = self.config
    self.embedding = layers.parameter(
      self,
      "embedding",
      nn.initializers.normal(1.0),
      ("vocab", "embed"),
      (config.vocab_size, config.d_model),
    )
    self.unembedding = layers.parameter(
      self,
      "unembedding",
      layers.kernel_init((0,), (1,)),
      ("embed", "vocab"),
      (config.d_model, config.vocab_size),
    )
    self.encoder = _Stack(config, is_decoder=False)
    self.decoder = _Stack(config, is_decoder=True)

  def _embed(self, tokens):
    # Whole rows for the lookup, as in the decoder-only models.
    rows = rules.constrain(self.embedding, ("vocab", "embed"))
    x = jnp.take(rows, tokens, axis=0)
    return rules.constrain(x.astype(self.config.activation_dtype), _RESIDUAL)

  def encode(self, tokens, mask):
    return self.encoder(
      self._embed(tokens), None, None, mask, None, jnp.int32(0)
    )[0]

  def decode(self, tokens, caches, encoded, mask, cross_mask, index):
    hidden, caches = self.decoder(
      self._embed(tokens), caches, encoded, mask, cross_mask, index
    )
    unembedding = rules.constrain(
      self.unembedding.astype(hidden.dtype), ("embed", "vocab")
    )
    return {"hidden": hidden, "unembedding": unembedding}, caches

  def __call__(self, inputs, encoder_mask, targets, mask, cross_mask):
    encoded = self.encode(inputs, encoder_mask)
    return self.decode(targets, None, encoded, mask, cross_mask, jnp.int32(0))[
      0
    ]


def build(config: EncoderDecoderConfig) -> EncoderDecoder:
  """The encoder–decoder of a configuration as pure functions.

  Batches are those of contract 3 with encoder_input_tokens and
  encoder_segment_ids, int32 [B, S]; decoder inputs start with 0, and a target
  attends to the encoder's tokens of its own segment. Positions are not read.
  """
  module = _EncoderDecoder(config)

  def boxed(key):
    one, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    return module.init(key, one, mask, one, mask, mask)["params"]

  def init(key):
    return nn.unbox(boxed(key))

  def apply(params, batch):
    sources = batch["encoder_segment_ids"]
    segments = batch["decoder_segment_ids"]
    return module.apply(
      {"params": params},
      batch["encoder_input_tokens"],
      masks.same_segment(sources, sources),
      batch["decoder_input_tokens"],
      masks.causal(segments),
      masks.same_segment(segments, sources),
    )

  def encode(params, tokens, segment_ids):
    return module.apply(
      {"params": params},
      tokens,
      masks.same_segment(segment_ids, segment_ids),
      method="encode",
    )

  def init_cache(params, encoded, encoder_valid, length):
    shape = (
      config.num_decoder_layers,
      encoded.shape[0],
      length,
      config.num_heads,
      config.head_dim,
    )
    kernels = params["decoder"]["layers"]["cross_attention"]

    def cross(name):
      kernel = kernels[name].astype(encoded.dtype)
      return jnp.einsum("BSD,LDNH->LBSNH", encoded, kernel)

    return {
      "keys": jnp.zeros(shape, encoded.dtype),
      "values": jnp.zeros(shape, encoded.dtype),
      "cross_keys": cross("key"),
      "cross_values": cross("value"),
      "cross_valid": encoder_valid,
      "valid": jnp.zeros(shape[1:3], bool),
      "index": jnp.int32(0),
    }

  def extend(params, cache, tokens, positions, valid):
    del positions  # slots tell the distances
    mask, now_valid = masks.cached(cache, valid)
    num_rows, length = tokens.shape
    # The rows of a forked cache share the encoder's keys.
    cross_valid = jnp.repeat(
      cache["cross_valid"], num_rows // len(cache["cross_valid"]), axis=0
    )
    outputs, own = module.apply(
      {"params": params},
      tokens,
      (
        caches.of_layers(cache),
        {"keys": cache["cross_keys"], "values": cache["cross_values"]},
      ),
      None,
      mask,
      jnp.broadcast_to(
        cross_valid[:, None, :], (num_rows, length, cross_valid.shape[1])
      ),
      cache["index"],
      method="decode",
    )
    index = cache["index"] + length
    return outputs, {**cache, **own, "valid": now_valid, "index": index}

  return EncoderDecoder(
    init,
    apply,
    encode,
    init_cache,
    extend,
    lambda: layers.logical_axes(boxed),
  )
