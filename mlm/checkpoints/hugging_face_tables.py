"""Tables: Hugging Face's names and settings, and what of ours they are.

A `Family` is one of their model types. Their kernels are [outputs, inputs]; ours
are [inputs, outputs] with the heads apart, stacked over layers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlm.checkpoints.tables import Layout, Row
from mlm.models import decoder, encdec


def _kernel(num_inputs: int) -> Layout:
  """A matrix whose inputs are the first num_inputs dimensions of ours."""
  return Layout(
    read=lambda theirs, shape: [theirs.T.reshape(shape)],
    write=lambda ours: (
      ours[0].reshape(math.prod(ours[0].shape[:num_inputs]), -1).T
    ),
  )


def _read_fused(theirs, shape):
  *inputs, N, H = shape
  parts = theirs.reshape(N, 3, H, *inputs)
  return [np.moveaxis(parts[:, i], (0, 1), (-2, -1)) for i in range(3)]


def _write_fused(ours):
  N, H = ours[0].shape[-2:]
  stack = ours[0].__array_namespace__().stack
  # [N, H, inputs] each, then [N, 3, H, inputs].
  parts = [x.transpose(*range(x.ndim)[-2:], *range(x.ndim - 2)) for x in ours]
  return stack(parts, axis=1).reshape(N * 3 * H, *ours[0].shape[:-2])


_SAME = Layout(lambda theirs, shape: [theirs], lambda ours: ours[0])
_IN = _kernel(1)
_OUT = _kernel(2)
# BLOOM's queries, keys and values in one matrix, head by head.
_FUSED = Layout(_read_fused, _write_fused)


@dataclasses.dataclass(frozen=True)
class Family:
  """One of their model types.

  Attributes:
    architecture: class that they load it with.
    config_class: of ours.
    fields: our field, or "field.field" within it, -> their key.
    fixed: our field -> the only value that this type has.
    required: their key -> the only value that we have, also if it is absent.
    written: their key -> value, for their programs; not read.
    rows: the table of names.
    copies: their names that repeat another one, and may be absent.
    ignored: their names without an effect.
    prefix: of all names, which some released files leave out.
  """

  architecture: str
  config_class: type
  fields: Mapping[str, str]
  fixed: Mapping[str, Any]
  required: Mapping[str, Any]
  rows: tuple[Row, ...]
  copies: Mapping[str, str]
  written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  ignored: tuple[str, ...] = ()
  prefix: str = ""


def _row(theirs: str, ours: str, layout: Layout) -> Row:
  return Row(theirs, (ours,), layout)


_LLAMA_FIELDS = {
  "vocab_size": "vocab_size",
  "num_layers": "num_hidden_layers",
  "d_model": "hidden_size",
  "d_ff": "intermediate_size",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
  "rope_theta": "rope_theta",
  "rope_scaling": "rope_scaling",
  "norm_epsilon": "rms_norm_eps",
  "tie_embeddings": "tie_word_embeddings",
}
HEAD = _row("lm_head.weight", "unembedding", _IN)
_LLAMA_ROWS = (
  _row("model.embed_tokens.weight", "embedding", _SAME),
  *(
    _row(f"model.layers.{{}}.{theirs}.weight", f"layers/{ours}", layout)
    for theirs, ours, layout in (
      ("self_attn.q_proj", "attention/query", _IN),
      ("self_attn.k_proj", "attention/key", _IN),
      ("self_attn.v_proj", "attention/value", _IN),
      ("self_attn.o_proj", "attention/out", _OUT),
      ("mlp.gate_proj", "mlp/gate", _IN),
      ("mlp.up_proj", "mlp/up", _IN),
      ("mlp.down_proj", "mlp/down", _IN),
    )
  ),
  _row("model.norm.weight", "final_norm/scale", _SAME),
  HEAD,
)
_LLAMA_NORMS = (
  _row(
    "model.layers.{}.input_layernorm.weight",
    "layers/attention_norm/scale",
    _SAME,
  ),
  _row(
    "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp_norm/scale",
    _SAME,
  ),
)
_COHERE_NORMS = (
  _row("model.layers.{}.input_layernorm.weight", "layers/norm/scale", _SAME),
)


_MOE = "model.layers.{}.block_sparse_moe"
_MIXTRAL_ROWS = (
  *(row for row in _LLAMA_ROWS if ".mlp." not in row.theirs),
  _row(f"{_MOE}.gate.weight", "layers/mlp/router", _IN),
  _row(f"{_MOE}.experts.{{}}.w1.weight", "layers/mlp/gate", _IN),
  _row(f"{_MOE}.experts.{{}}.w3.weight", "layers/mlp/up", _IN),
  _row(f"{_MOE}.experts.{{}}.w2.weight", "layers/mlp/down", _IN),
)


def _bloom_rows():
  yield _row("transformer.word_embeddings.weight", "embedding", _SAME)
  for theirs, ours in (
    ("word_embeddings_layernorm", "embedding_norm"),
    ("h.{}.input_layernorm", "layers/attention_norm"),
    ("h.{}.post_attention_layernorm", "layers/mlp_norm"),
    ("ln_f", "final_norm"),
  ):
    yield _row(f"transformer.{theirs}.weight", f"{ours}/scale", _SAME)
    yield _row(f"transformer.{theirs}.bias", f"{ours}/bias", _SAME)
  for theirs, ours, kernel in (
    ("self_attention.dense", "attention/out", _OUT),
    ("mlp.dense_h_to_4h", "mlp/up", _IN),
    ("mlp.dense_4h_to_h", "mlp/down", _IN),
  ):
    name = f"transformer.h.{{}}.{theirs}"
    yield _row(f"{name}.weight", f"layers/{ours}", kernel)
    yield _row(f"{name}.bias", f"layers/{ours}_bias", _SAME)
  fused = [f"layers/attention/{name}" for name in ("query", "key", "value")]
  name = "transformer.h.{}.self_attention.query_key_value"
  yield Row(f"{name}.weight", tuple(fused), _FUSED)
  yield Row(f"{name}.bias", tuple(f"{x}_bias" for x in fused), _FUSED)
  yield HEAD


def _t5_rows(stack: str, sublayers: tuple[tuple[str, str], ...]):
  """Of encoder or decoder; sublayers: (their class, our name) in order."""
  for i, (theirs, ours) in enumerate(sublayers):
    name = f"{stack}.block.{{}}.layer.{i}"
    path = f"{stack}/layers/{ours}"
    yield _row(f"{name}.layer_norm.weight", f"{path}_norm/scale", _SAME)
    if theirs == "DenseReluDense":
      kernels = (
        ("wi_0", "gate", _IN),
        ("wi_1", "up", _IN),
        ("wo", "down", _IN),
      )
    else:
      kernels = (
        ("q", "query", _IN),
        ("k", "key", _IN),
        ("v", "value", _IN),
        ("o", "out", _OUT),
      )
    for kernel, part, layout in kernels:
      yield _row(f"{name}.{theirs}.{kernel}.weight", f"{path}/{part}", layout)
  yield _row(
    f"{stack}.final_layer_norm.weight", f"{stack}/final_norm/scale", _SAME
  )


_SELF, _MLP = ("SelfAttention", "attention"), ("DenseReluDense", "mlp")
_T5_ROWS = (
  _row("shared.weight", "embedding", _SAME),
  *_t5_rows("encoder", (_SELF, _MLP)),
  *_t5_rows("decoder", (_SELF, ("EncDecAttention", "cross_attention"), _MLP)),
  HEAD,
)
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
_MT5_BIASES = tuple(
  _row(f"{stack}.block.0.{_BIAS}", f"{stack}/relative_bias", _SAME)
  for stack in ("encoder", "decoder")
)
_UMT5_BIASES = tuple(
  _row(f"{stack}.block.{{}}.{_BIAS}", f"{stack}/layers/relative_bias", _SAME)
  for stack in ("encoder", "decoder")
)
_T5_FIELDS = {
  "vocab_size": "vocab_size",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "d_model": "d_model",
  "d_ff": "d_ff",
  "num_heads": "num_heads",
  "head_dim": "d_kv",
  "num_buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "norm_epsilon": "layer_norm_epsilon",
}
_T5_COPIES = {
  "encoder.embed_tokens.weight": "shared.weight",
  "decoder.embed_tokens.weight": "shared.weight",
}
_T5_GATED = {"feed_forward_proj": "gated-gelu"}
_T5_WRITTEN = {"tie_word_embeddings": False, "decoder_start_token_id": 0}
# An early release stored a table of distances that cross-attention never reads.
_T5_IGNORED = (
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
_PLAIN = {
  "norm": "layer",
  "mlp": "swiglu",
  "parallel_block": False,
  "use_biases": False,
  "normalize_embedding": False,
  "logit_scale": 1.0,
  "moe": None,
}

FAMILIES = {
  "llama": Family(
    architecture="LlamaForCausalLM",
    config_class=decoder.DecoderConfig,
    fields=_LLAMA_FIELDS,
    fixed={**_PLAIN, "position_encoding": "rotary_halves", "norm": "rms"},
    required={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    rows=_LLAMA_ROWS + _LLAMA_NORMS,
    copies={"lm_head.weight": "model.embed_tokens.weight"},
  ),
  "cohere": Family(
    architecture="CohereForCausalLM",
    config_class=decoder.DecoderConfig,
    fields={
      **_LLAMA_FIELDS,
      "norm_epsilon": "layer_norm_eps",
      "logit_scale": "logit_scale",
    },
    fixed={
      **{k: v for k, v in _PLAIN.items() if k != "logit_scale"},
      "position_encoding": "rotary_pairs",
      "parallel_block": True,
    },
    required={
      "hidden_act": "silu",
      "attention_bias": False,
      "use_qk_norm": False,
    },
    rows=_LLAMA_ROWS + _COHERE_NORMS,
    copies={"lm_head.weight": "model.embed_tokens.weight"},
  ),
  "bloom": Family(
    architecture="BloomForCausalLM",
    config_class=decoder.DecoderConfig,
    fields={
      "vocab_size": "vocab_size",
      "num_layers": "n_layer",
      "d_model": "hidden_size",
      "d_ff": "intermediate_size",
      "num_heads": "n_head",
      "num_kv_heads": "num_key_value_heads",
      "head_dim": "head_dim",
      "norm_epsilon": "layer_norm_epsilon",
      "tie_embeddings": "tie_word_embeddings",
    },
    fixed={
      **_PLAIN,
      "position_encoding": "alibi",
      "rope_theta": None,
      "rope_scaling": None,
      "mlp": "gelu",
      "use_biases": True,
      "normalize_embedding": True,
    },
    required={"apply_residual_connection_post_layernorm": False},
    rows=tuple(_bloom_rows()),
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    prefix="transformer.",
  ),
  "mixtral": Family(
    architecture="MixtralForCausalLM",
    config_class=decoder.DecoderConfig,
    fields={
      **_LLAMA_FIELDS,
      "moe.num_experts": "num_local_experts",
      "moe.num_experts_per_token": "num_experts_per_tok",
      "moe.load_balancing_weight": "router_aux_loss_coef",
      "moe.router_z_weight": "router_z_loss_coef",  # they do not read it
    },
    fixed={
      **{k: v for k, v in _PLAIN.items() if k != "moe"},
      "position_encoding": "rotary_halves",
      "norm": "rms",
      "moe.renormalize": True,
      "moe.capacity_factor": None,
    },
    required={
      "hidden_act": "silu",
      "sliding_window": None,
      "router_jitter_noise": 0.0,
    },
    rows=_MIXTRAL_ROWS + _LLAMA_NORMS,
    copies={"lm_head.weight": "model.embed_tokens.weight"},
  ),
  "mt5": Family(
    architecture="MT5ForConditionalGeneration",
    config_class=encdec.EncoderDecoderConfig,
    fields=_T5_FIELDS,
    fixed={"relative_bias": "stack"},
    # transformers 5 writes that it ties, whatever the weights do.
    required=_T5_GATED,
    written=_T5_WRITTEN,
    rows=_T5_ROWS + _MT5_BIASES,
    copies=_T5_COPIES,
    ignored=_T5_IGNORED,
  ),
  # T5 1.1: the same model under an earlier name.
  "t5": Family(
    architecture="T5ForConditionalGeneration",
    config_class=encdec.EncoderDecoderConfig,
    fields=_T5_FIELDS,
    fixed={"relative_bias": "stack"},
    required={**_T5_GATED, "tie_word_embeddings": False},
    written=_T5_WRITTEN,
    rows=_T5_ROWS + _MT5_BIASES,
    copies=_T5_COPIES,
    ignored=_T5_IGNORED,
  ),
  "umt5": Family(
    architecture="UMT5ForConditionalGeneration",
    config_class=encdec.EncoderDecoderConfig,
    fields=_T5_FIELDS,
    fixed={"relative_bias": "layer"},
    required={**_T5_GATED, "tie_word_embeddings": False},
    written=_T5_WRITTEN,
    rows=_T5_ROWS + _UMT5_BIASES,
    copies=_T5_COPIES,
  ),
}
