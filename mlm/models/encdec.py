"""Encoder–decoders: T5 1.1, mT5 and umT5.

Attention knows positions by a bias on its logits alone, one a head and bucket
of distances. Distances are counted between slots of a row, not between
positions: within a segment, whose tokens are contiguous, they are the same.

Letters: B rows, S encoder length, T decoder length, D model width, N heads,
H head width, L layers, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels.relative_attention import api as relative_attention
from mlm.models import backends as backends_lib
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
  """Float32 [N, T, S] of a table that the module owns, or without mask, as a
  kernel makes it by itself, the table [buckets, N].

  Args:
    module: encoder or decoder, or one of their layers.
    config: of the model.
    mask: bool [B, T, S], or None.
    index: int32 scalar, slot of the first of the T tokens.
    is_bidirectional: as for the buckets.
  """
  table = layers.parameter(
    module,
    "relative_bias",
    nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    ("buckets", "heads"),
    (config.num_buckets, config.num_heads),
  )
  if mask is None:
    return table
  query_slots, key_slots = (jnp.arange(n) for n in mask.shape[1:])
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
  return rules.constrain(bias, ("heads", "length", "key_length"))


class _Block(nn.Module):
  """Of the encoder, or with cross-attention of the decoder."""

  config: EncoderDecoderConfig
  backends: backends_lib.Backends
  is_decoder: bool

  @nn.compact
  def __call__(
    self, x, cache, encoded, mask, segments, cross_mask, bias, index
  ):
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
    fused = None
    if mask is None:
      fused = functools.partial(
        _attend_fused,
        bias.T,
        segments,
        max_distance=config.max_distance,
        is_causal=self.is_decoder,
        backend=self.backends.relative_attention,
      )
    normed = norm("attention_norm")(x)
    attended, own = attention("attention")(
      normed, normed, own, None, mask, bias, index, fused
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


def _attend_fused(table, segments, query, key, value, **options):
  out = relative_attention.relative_attention(
    query,
    key,
    value,
    table,
    segments,
    segments,
    **options,
    **rules.whole_row_placement(key.shape[0], key.shape[2]),
  )
  return out, None


class _Stack(nn.Module):
  config: EncoderDecoderConfig
  backends: backends_lib.Backends
  is_decoder: bool

  @nn.compact
  def __call__(self, x, caches, encoded, mask, segments, cross_mask, index):
    """Returns (hidden [B, T, D], caches of self-attention).

    Args:
      x: embedded tokens, [B, T, D].
      caches: None, or two {"keys", "values"} of [L, B, slots, N, H]: of self-
        and of cross-attention.
      encoded: [B, S, D], or None where the cache has its keys.
      mask: bool [B, T, slots], or None: without caches, a kernel then sees to
        it that tokens attend to those of their segment.
      segments: int32 [B, T] where mask is None.
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
      num_shared=6,
    )
    x, caches = stack(config, self.backends, self.is_decoder, name="layers")(
      x, caches, encoded, mask, segments, cross_mask, bias, index
    )
    norm = layers.Norm("rms", config.norm_epsilon, False, name="final_norm")
    return norm(x), caches


class _EncoderDecoder(nn.Module):
  config: EncoderDecoderConfig
  backends: backends_lib.Backends

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
    self.encoder = _Stack(config, self.backends, is_decoder=False)
    self.decoder = _Stack(config, self.backends, is_decoder=True)

  def _embed(self, tokens):
    # Whole rows for the lookup, as in the decoder-only models.
    rows = rules.constrain(self.embedding, ("vocab", "embed"))
    x = jnp.take(rows, tokens, axis=0)
    return rules.constrain(x.astype(self.config.activation_dtype), _RESIDUAL)

  @property
  def is_fused(self):
    return self.backends.relative_attention is not None

  def encode(self, tokens, segments):
    mask = None if self.is_fused else masks.same_segment(segments, segments)
    return self.encoder(
      self._embed(tokens), None, None, mask, segments, None, jnp.int32(0)
    )[0]

  def decode(self, tokens, caches, encoded, mask, segments, cross_mask, index):
    hidden, caches = self.decoder(
      self._embed(tokens), caches, encoded, mask, segments, cross_mask, index
    )
    unembedding = rules.constrain(
      self.unembedding.astype(hidden.dtype), ("embed", "vocab")
    )
    return {"hidden": hidden, "unembedding": unembedding}, caches

  def __call__(self, inputs, sources, targets, segments):
    return self.decode(
      targets,
      None,
      self.encode(inputs, sources),
      None if self.is_fused else masks.causal(segments),
      segments,
      masks.same_segment(segments, sources),
      jnp.int32(0),
    )[0]


def build(
  config: EncoderDecoderConfig,
  *,
  backends: backends_lib.Backends | None = None,
) -> EncoderDecoder:
  """The encoder–decoder of a configuration as pure functions.

  Its kernels are those of `backends`, or the platform's; cross-attention and
  what reads a cache have no kernel and attend by `layers.attend`.

  Batches are those of contract 3 with encoder_input_tokens and
  encoder_segment_ids, int32 [B, S]; decoder inputs start with 0, and a target
  attends to the encoder's tokens of its own segment. Positions are not read.
  """
  if backends is None:
    backends = backends_lib.default(config.activation_dtype)
  module = _EncoderDecoder(config, backends)
  plain = module.clone(backends=backends_lib.PLAIN)

  def boxed(key):
    one = jnp.zeros((1, 1), jnp.int32)
    return plain.init(key, one, one, one, one)["params"]

  def init(key):
    return nn.unbox(boxed(key))

  def apply(params, batch):
    return module.apply(
      {"params": params},
      batch["encoder_input_tokens"],
      batch["encoder_segment_ids"],
      batch["decoder_input_tokens"],
      batch["decoder_segment_ids"],
    )

  def encode(params, tokens, segment_ids):
    return module.apply(
      {"params": params}, tokens, segment_ids, method="encode"
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
      None,
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
