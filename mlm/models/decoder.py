"""A Llama-style decoder: pre-norm, grouped-query attention, RoPE, SwiGLU.

Letters: B rows, T tokens, S cache slots, D model width, K key/value heads,
H head width, L layers, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlm.models import layers
from mlm.sharding import rules

_EMBEDDING_STDDEV = 0.02  # as GPT-2 and Llama; logits start near 0 when tied
_DTYPES = ("float32", "bfloat16")
_REMAT = ("none", "full")
_RESIDUAL = ("batch", "length", "embed")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Shape of a decoder.

  Attributes:
    vocab_size: V, rows of the embedding table.
    num_layers: L.
    d_model: D.
    d_ff: F, width of the gated MLP.
    num_heads: N query heads.
    num_kv_heads: K key/value heads; divides num_heads.
    head_dim: H, even.
    rope_theta: base of the rotary wavelengths.
    norm_epsilon: of the RMS norms.
    tie_embeddings: whether the output matrix is the embedding table.
    activation_dtype: "float32" or "bfloat16"; params are float32.
    remat: "none", or "full" to recompute each layer in the backward pass.
  """

  vocab_size: int
  num_layers: int
  d_model: int
  d_ff: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float
  norm_epsilon: float
  tie_embeddings: bool
  activation_dtype: str
  remat: str

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise ValueError(
          f"{field.name} {getattr(self, field.name)} must be at least 1"
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads {self.num_heads} is not divisible by num_kv_heads "
        f"{self.num_kv_heads}; each key/value head serves equally many"
      )
    for name in ("rope_theta", "norm_epsilon"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} {getattr(self, name)} must be above 0")
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even for RoPE")
    if self.activation_dtype not in _DTYPES:
      raise ValueError(
        f"activation_dtype {self.activation_dtype!r}: choose {_DTYPES}"
      )
    if self.remat not in _REMAT:
      raise ValueError(f"remat {self.remat!r}: choose {_REMAT}")


class Model(NamedTuple):
  """A model as pure functions; see docs/architecture.md, contract 4."""

  init: Callable[[jax.Array], Any]
  apply: Callable[[Any, dict], dict]
  init_cache: Callable[[int, int], dict]
  extend: Callable[..., tuple[dict, dict]]
  logical_axes: Callable[[], Any]


class _Block(nn.Module):
  config: DecoderConfig

  @nn.compact
  def __call__(self, x, cache, positions, mask, index):
    config = self.config
    attended, cache = layers.Attention(
      num_heads=config.num_heads,
      num_kv_heads=config.num_kv_heads,
      head_dim=config.head_dim,
      rope_theta=config.rope_theta,
      name="attention",
    )(
      layers.RMSNorm(config.norm_epsilon, name="attention_norm")(x),
      cache,
      positions,
      mask,
      index,
    )
    x = rules.constrain(x + attended, _RESIDUAL)
    normed = layers.RMSNorm(config.norm_epsilon, name="mlp_norm")(x)
    x = x + layers.GatedMLP(config.d_ff, name="mlp")(normed)
    return rules.constrain(x, _RESIDUAL), cache


class _Decoder(nn.Module):
  config: DecoderConfig

  @nn.compact
  def __call__(self, tokens, positions, mask, layer_caches, index):
    """Returns ({"hidden", "unembedding"}, layer caches).

    Args:
      tokens: int32 [B, T].
      positions: int32 [B, T].
      mask: bool [B, T, S].
      layer_caches: None, or {"keys", "values"} of [L, B, S, K, H].
      index: int32 scalar, first cache slot to write.
    """
    config = self.config
    dtype = jnp.dtype(config.activation_dtype)
    table = layers.parameter(
      self,
      "embedding",
      nn.initializers.normal(_EMBEDDING_STDDEV),
      ("vocab", "embed"),
      (config.vocab_size, config.d_model),
    )
    # Whole rows for the lookup: split over fsdp, as the batch is, they would
    # have to be exchanged after it.
    rows = rules.constrain(table, ("vocab", "embed"))
    x = jnp.take(rows, tokens, axis=0).astype(dtype)
    x = rules.constrain(x, _RESIDUAL)
    block = _Block
    if config.remat == "full":
      block = nn.remat(_Block, prevent_cse=False)
    stack = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=config.num_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, layer_caches = stack(config, name="layers")(
      x, layer_caches, positions, mask, index
    )
    hidden = layers.RMSNorm(config.norm_epsilon, name="final_norm")(x)
    if config.tie_embeddings:
      unembedding = table.T
    else:
      unembedding = layers.parameter(
        self,
        "unembedding",
        nn.initializers.normal(_EMBEDDING_STDDEV),
        ("embed", "vocab"),
        (config.d_model, config.vocab_size),
      )
    # Gathered over fsdp once, in the activations dtype, and not in every chunk
    # of the loss.
    unembedding = rules.constrain(unembedding.astype(dtype), ("embed", "vocab"))
    return {"hidden": hidden, "unembedding": unembedding}, layer_caches


def build(config: DecoderConfig) -> Model:
  """The decoder of a configuration as pure functions."""
  module = _Decoder(config)

  def boxed(key):
    one = jnp.zeros((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    return module.init(key, one, one, mask, None, jnp.int32(0))["params"]

  def init(key):
    return nn.unbox(boxed(key))

  def logical_axes():
    specs = nn.get_partition_spec(jax.eval_shape(boxed, jax.random.key(0)))
    return jax.tree.map(
      tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )

  def apply(params, batch):
    segments = batch["decoder_segment_ids"]
    length = segments.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = causal & (segments[:, :, None] == segments[:, None, :])
    outputs, _ = module.apply(
      {"params": params},
      batch["decoder_input_tokens"],
      batch["decoder_positions"],
      mask,
      None,
      jnp.int32(0),
    )
    return outputs

  def init_cache(batch_size, length):
    shape = (
      config.num_layers,
      batch_size,
      length,
      config.num_kv_heads,
      config.head_dim,
    )
    dtype = jnp.dtype(config.activation_dtype)
    return {
      "keys": jnp.zeros(shape, dtype),
      "values": jnp.zeros(shape, dtype),
      "valid": jnp.zeros((batch_size, length), bool),
      "index": jnp.int32(0),
    }

  def extend(params, cache, tokens, positions, valid):
    index, length = cache["index"], tokens.shape[1]
    if length > cache["valid"].shape[1]:
      raise ValueError(
        f"{length} tokens do not fit a cache of {cache['valid'].shape[1]} "
        "slots; make it at least as long as prompt and response together"
      )
    now_valid = jax.lax.dynamic_update_slice_in_dim(
      cache["valid"], valid, index, axis=1
    )
    slots = jnp.arange(now_valid.shape[1])
    own_slots = index + jnp.arange(length)
    mask = now_valid[:, None, :] & (slots <= own_slots[:, None])
    outputs, layer_caches = module.apply(
      {"params": params},
      tokens,
      positions,
      mask,
      {"keys": cache["keys"], "values": cache["values"]},
      index,
    )
    cache = {**layer_caches, "valid": now_valid, "index": index + length}
    return outputs, cache

  return Model(init, apply, init_cache, extend, logical_axes)
