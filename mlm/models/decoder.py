"""Decoder-only models: Llama 3, Mixtral, Aya 23 (Cohere), BLOOM, relatives.

One stack of blocks; the families differ in the fields of `DecoderConfig`, whose
values for published models are in gin/models.

Letters: B rows, T tokens, S cache slots, D model width, N heads, K key/value
heads, H head width, L layers, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels.causal_attention import api as causal_attention
from mlm.models import adapters as adapters_lib
from mlm.models import backends as backends_lib
from mlm.models import caches, fields, layers, masks, position_encodings
from mlm.models import moe as moe_lib
from mlm.models import pages as pages_lib
from mlm.sharding import rules

_EMBEDDING_STDDEV = 0.02  # as GPT-2 and Llama; logits start near 0 when tied
_ROTATE = {
  "rotary_halves": position_encodings.rotate_halves,
  "rotary_pairs": position_encodings.rotate_pairs,
}
_POSITIONS = (*_ROTATE, "alibi")
_RESIDUAL = ("batch", "residual_length", "embed")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Shape and kind of a decoder.

  Attributes:
    vocab_size: V, rows of the embedding table.
    num_layers: L.
    d_model: D.
    d_ff: F, width of the MLP, or of each expert.
    num_heads: N query heads.
    num_kv_heads: K key/value heads; divides num_heads.
    head_dim: H, even for rotary positions.
    position_encoding: "rotary_halves", "rotary_pairs" or "alibi".
    rope_theta: base of the rotary wavelengths; None with "alibi".
    rope_scaling: {"factor", "low", "high", "original_length"} of Llama 3.1, see
      `mlm.models.position_encodings.rotary_frequencies`; None for none.
    norm: "rms" or "layer".
    norm_epsilon: of the norms.
    mlp: "swiglu", "geglu" or "gelu", the last without a gate.
    parallel_block: whether attention and MLP read one norm and are added to the
      residual at once.
    use_biases: in all projections and norms; needs norm "layer".
    normalize_embedding: whether a norm follows the embedding.
    tie_embeddings: whether the output matrix is the embedding table.
    logit_scale: multiplies the logits.
    activation_dtype: "float32" or "bfloat16"; params are float32.
    remat: what the backward pass recomputes: "none", "minimal" (all but the
      products with weights) or "full" (every block).
    moe: of the mixture of experts that replaces every MLP; None for none.
  """

  vocab_size: int
  num_layers: int
  d_model: int
  d_ff: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  position_encoding: str
  rope_theta: float | None
  rope_scaling: dict[str, float] | None
  norm: str
  norm_epsilon: float
  mlp: str
  parallel_block: bool
  use_biases: bool
  normalize_embedding: bool
  tie_embeddings: bool
  logit_scale: float
  activation_dtype: str
  remat: str
  moe: moe_lib.MoEConfig | None = None

  def __post_init__(self):
    if isinstance(self.moe, dict):  # as asdict, and so checkpoints, have it
      object.__setattr__(self, "moe", moe_lib.MoEConfig(**self.moe))
    fields.check(
      self,
      {
        "position_encoding": _POSITIONS,
        "norm": layers.NORMS,
        "mlp": layers.MLPS,
        "remat": layers.REMAT,
      },
    )
    fields.check_positive(self, ("norm_epsilon", "logit_scale"))
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads {self.num_heads} is not divisible by num_kv_heads "
        f"{self.num_kv_heads}; each key/value head serves equally many"
      )
    if self.use_biases and self.norm == "rms":
      raise ValueError(
        "use_biases with norm 'rms', which has none; set norm to 'layer'"
      )
    if self.use_biases and self.moe is not None:
      raise ValueError(
        "use_biases with moe, whose experts have none; set use_biases to False "
        "or moe to None"
      )
    if self.position_encoding == "alibi":
      self._check_alibi()
    else:
      self._check_rotary()

  def _check_alibi(self):
    if self.rope_theta is not None or self.rope_scaling is not None:
      raise ValueError(
        f"position_encoding 'alibi' rotates nothing, but rope_theta is "
        f"{self.rope_theta} and rope_scaling {self.rope_scaling}; set both to "
        "None"
      )

  def _check_rotary(self):
    if self.rope_theta is None or not self.rope_theta > 0:
      raise ValueError(
        f"rope_theta {self.rope_theta} must be above 0 with position_encoding "
        f"{self.position_encoding!r}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even for RoPE")
    if self.rope_scaling is None:
      return
    if set(self.rope_scaling) != set(position_encodings.ROPE_SCALING):
      raise ValueError(
        f"rope_scaling has {', '.join(self.rope_scaling)}; give "
        f"{', '.join(position_encodings.ROPE_SCALING)}, or None"
      )
    if not 0 < self.rope_scaling["low"] < self.rope_scaling["high"]:
      raise ValueError(
        f"rope_scaling low {self.rope_scaling['low']} and high "
        f"{self.rope_scaling['high']}: 0 < low < high is needed"
      )


class Model(NamedTuple):
  """A model as pure functions; see docs/architecture.md, contract 4."""

  init: Callable[[jax.Array], Any]
  apply: Callable[[Any, dict], dict]
  init_cache: Callable[[int, int], dict]
  extend: Callable[..., tuple[dict, dict]]
  logical_axes: Callable[[], Any]
  init_pages: Callable[..., dict] | None


class _Block(nn.Module):
  config: DecoderConfig
  backends: backends_lib.Backends

  @nn.compact
  def __call__(
    self, carry, cache, positions, mask, segments, languages, index, rows
  ):
    """Returns ((x, pages or None), (cache, what the router did or None)).

    With pages, cache is the number of the layer, and None is returned for it.
    """
    config = self.config
    x, pages = carry
    bias = rotate = fused = None
    if pages is not None:
      backend = self.backends.paged_attention
      fused = functools.partial(pages_lib.attend, pages, rows, cache, backend)
      cache = None
    elif mask is None:
      fused = functools.partial(
        _attend_fused, segments, self.backends.causal_attention
      )
    if config.position_encoding == "alibi":
      query_slots, key_slots = (jnp.arange(n) for n in mask.shape[1:])
      bias = position_encodings.alibi_bias(
        config.num_heads, index + query_slots, key_slots
      )
    else:
      rotate = functools.partial(
        _ROTATE[config.position_encoding],
        frequencies=position_encodings.rotary_frequencies(
          config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling
        ),
      )
    attention = layers.Attention(
      num_heads=config.num_heads,
      num_kv_heads=config.num_kv_heads,
      head_dim=config.head_dim,
      is_scaled=True,
      rotate=rotate,
      use_biases=config.use_biases,
      name="attention",
    )
    name = "norm" if config.parallel_block else "attention_norm"
    normed = _norm(config, name)(x)
    attended, cache = attention(
      normed, normed, cache, positions, mask, bias, index, fused
    )
    if pages is not None:
      pages, cache = cache, None
    x = rules.constrain(x + attended, _RESIDUAL)
    if not config.parallel_block:
      normed = _norm(config, "mlp_norm")(x)
    if config.moe is None:
      routing = None
      mlp = layers.MLP(config.mlp, config.d_ff, config.use_biases, name="mlp")
      out = mlp(normed)
    else:
      experts = moe_lib.MoE(
        config.moe,
        config.mlp,
        config.d_ff,
        self.backends.grouped_matmul,
        name="mlp",
      )
      out, routing = experts(normed, segments != 0)
    out = adapters_lib.after_mlp(self, out, languages)
    return (rules.constrain(x + out, _RESIDUAL), pages), (cache, routing)


def _attend_fused(segments, backend, query, key, value):
  out = causal_attention.causal_attention(
    query,
    key,
    value,
    segments,
    backend=backend,
    **rules.kernel_placement(key.shape[0], key.shape[2], query.shape[1]),
  )
  return out, None


def _norm(config, name):
  return layers.Norm(
    config.norm, config.norm_epsilon, config.use_biases, name=name
  )


class _Decoder(nn.Module):
  config: DecoderConfig
  backends: backends_lib.Backends

  @nn.compact
  def __call__(
    self,
    tokens,
    positions,
    mask,
    segments,
    languages,
    layer_caches,
    index,
    pages=None,
    page_rows=None,
  ):
    """Returns (outputs of `Model.apply`, layer caches or pages).

    Args:
      tokens: int32 [B, T].
      positions: int32 [B, T]; ALiBi counts slots instead.
      mask: bool [B, T, S], or None: without a cache, a kernel then sees to it
        that tokens of a segment attend to earlier ones.
      segments: int32 [B, T], 0 where a token is padding.
      languages: int32 [B, T], of `adapters.numbers`, or None.
      layer_caches: None, or {"keys", "values"} of [L, B, S, K, H], and their
        prompt's if `caches.fork` made them.
      index: int32 scalar, slot of the first token, and the first to write.
      pages: [G, L, Q, S, 2 K, H] in place of layer caches, mask and index; see
        `mlm.models.pages`.
      page_rows: `pages.Rows` of it.
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
    # Whole rows of tokens first: asked for parts of them, the compiler would
    # gather the table over the axis that splits the vocabulary.
    x = rules.constrain(x, ("batch", "length", "embed"))
    if config.normalize_embedding:
      x = _norm(config, "embedding_norm")(x)
    x = adapters_lib.couple(self, x, languages)
    x = rules.constrain(x, _RESIDUAL)
    stack = layers.stack(
      _Block, num_layers=config.num_layers, remat=config.remat, num_shared=6
    )
    if pages is not None:
      # All layers' pages go from layer to layer, so that each is written where
      # it is; a scan would take a layer's part out and put it into a new whole.
      layer_caches = jnp.arange(config.num_layers)
    (x, pages), (layer_caches, routing) = stack(
      config, self.backends, name="layers"
    )(
      (x, pages),
      layer_caches,
      positions,
      mask,
      segments,
      languages,
      index,
      page_rows,
    )
    hidden = _norm(config, "final_norm")(x)
    hidden = adapters_lib.uncouple(self, hidden, languages)
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
    # In float32, before the cast: exact for powers of two (Cohere's 1/16), one
    # rounding of the weights otherwise. The hidden states stay what they are.
    if config.logit_scale != 1:
      unembedding = unembedding * config.logit_scale
    # Gathered over fsdp once, in the activations dtype, and not in every chunk
    # of the loss.
    unembedding = rules.constrain(unembedding.astype(dtype), ("embed", "vocab"))
    outputs = {"hidden": hidden, "unembedding": unembedding}
    if config.moe is not None:
      outputs |= moe_lib.auxiliary(config.moe, routing)
    return outputs, layer_caches if pages is None else pages


def build(
  config: DecoderConfig,
  *,
  adapters: adapters_lib.AdapterConfig | None = None,
  backends: backends_lib.Backends | None = None,
) -> Model:
  """The decoder of a configuration as pure functions.

  Its kernels are those of `backends`, or the platform's; ALiBi and what reads a
  cache have no kernel and attend by `layers.attend`.

  With adapters, params are {"base": the decoder's, "adapters": theirs}, and
  language adapters read decoder_language_ids; when decoding they read the
  cache's "languages", int32 [B], which is -1 (none) unless the caller sets it.
  """
  if backends is None:
    backends = backends_lib.default(config.activation_dtype)
  is_fused = (
    backends.causal_attention is not None
    and config.position_encoding != "alibi"
  )
  module = _Decoder(config, backends)
  plain = module.clone(backends=backends_lib.PLAIN)

  def boxed(key):
    one = jnp.zeros((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    return plain.init(key, one, one, mask, one, None, None, jnp.int32(0))[
      "params"
    ]

  def init(key):
    params = nn.unbox(boxed(key))
    if adapters is None:
      return params
    axes, key = layers.logical_axes(boxed), jax.random.fold_in(key, 1)
    fresh = adapters_lib.init(adapters, params, axes, key)
    return {"base": params, "adapters": fresh}

  def logical_axes():
    axes = layers.logical_axes(boxed)
    if adapters is None:
      return axes
    abstract = jax.eval_shape(lambda: nn.unbox(boxed(jax.random.key(0))))
    of_adapters = adapters_lib.logical_axes(adapters, abstract, axes)
    return {"base": axes, "adapters": of_adapters}

  def variables(params):
    if adapters is None:
      return {"params": params}
    scaled = adapters_lib.scaled(adapters, params["adapters"])
    return {"params": params["base"], "adapters": scaled}

  has_languages = adapters is not None and adapters.language is not None

  def apply(params, batch):
    languages = None
    if has_languages:
      languages = adapters_lib.numbers(adapters, batch["decoder_language_ids"])
    segments = batch["decoder_segment_ids"]
    outputs, _ = module.apply(
      variables(params),
      batch["decoder_input_tokens"],
      batch["decoder_positions"],
      None if is_fused else masks.causal(segments),
      segments,
      languages,
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
    cache = {
      "keys": jnp.zeros(shape, dtype),
      "values": jnp.zeros(shape, dtype),
      "valid": jnp.zeros((batch_size, length), bool),
      "index": jnp.int32(0),
    }
    if has_languages:
      cache["languages"] = jnp.full(batch_size, -1)
    return cache

  def init_pages(**sizes):
    cache = pages_lib.init(
      num_layers=config.num_layers,
      num_kv_heads=config.num_kv_heads,
      head_dim=config.head_dim,
      dtype=jnp.dtype(config.activation_dtype),
      **sizes,
    )
    if has_languages:
      cache["languages"] = jnp.full(len(cache["lengths"]), -1)
    return cache

  def extend(params, cache, tokens, positions, valid):
    languages = None
    if has_languages:
      ids = jnp.broadcast_to(cache["languages"][:, None], tokens.shape)
      languages = adapters_lib.numbers(adapters, ids)
    if "pages" in cache:
      return extend_pages(params, cache, tokens, positions, valid, languages)
    mask, now_valid = masks.cached(cache, valid)
    index = cache["index"]
    outputs, layer_caches = module.apply(
      variables(params),
      tokens,
      positions,
      mask,
      valid.astype(jnp.int32),
      languages,
      caches.of_layers(cache),
      index,
    )
    index = index + tokens.shape[1]
    now = {**layer_caches, "valid": now_valid, "index": index}
    return outputs, {**cache, **now}

  def extend_pages(params, cache, tokens, positions, valid, languages):
    if tokens.shape[1] != 1:
      raise ValueError(
        f"{tokens.shape[1]} tokens a row for a cache in pages, which takes one "
        "at a time; read prompts by `init_cache` and `pages.fill`"
      )
    is_new = valid[:, 0]
    outputs, pages = module.apply(
      variables(params),
      tokens,
      positions,
      None,
      valid.astype(jnp.int32),
      languages,
      None,
      None,
      cache["pages"],
      pages_lib.Rows(cache["table"], cache["lengths"], is_new),
    )
    return outputs, pages_lib.extended(cache, pages, is_new)

  # ALiBi's distances are differences of slots, which pages do not keep.
  has_pages = config.position_encoding != "alibi"
  return Model(
    init,
    apply,
    init_cache,
    extend,
    logical_axes,
    init_pages if has_pages else None,
  )


def in_language(model: Model, language_id: int) -> Model:
  """A model with language adapters that decodes with those of one language.

  Args:
    model: of `build` with language adapters.
    language_id: index in the registry, as decoder_language_ids has it.
  """

  def init_cache(batch_size, length):
    cache = model.init_cache(batch_size, length)
    return {
      **cache,
      "languages": jnp.full_like(cache["languages"], language_id),
    }

  return model._replace(init_cache=init_cache)
