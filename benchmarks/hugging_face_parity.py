"""Golden logits of Hugging Face's models, for tests of ours against theirs.

    pip install torch transformers   # in an environment of its own
    python -P benchmarks/hugging_face_parity.py \
      --output=tests/testdata/hugging_face_logits.json

-P, since names of files here are names of packages there. Weights are not stored: each is drawn by a generator seeded by its name, here and in the tests.
Small models in float32; nothing of this project is imported.
"""

import argparse
import json
import zlib

import numpy as np

_LLAMA = {
  "hidden_size": 32,
  "intermediate_size": 56,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 16,
  "vocab_size": 64,
  "hidden_act": "silu",
  "attention_bias": False,
}
_T5 = {
  "d_model": 32,
  "d_ff": 56,
  "d_kv": 6,
  "num_heads": 4,
  "num_layers": 2,
  "num_decoder_layers": 3,
  "vocab_size": 64,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 14,
  "layer_norm_epsilon": 1e-6,
  "feed_forward_proj": "gated-gelu",
  "tie_word_embeddings": False,
}
# In the spelling of released files. The wavelengths of the scaled model lie on
# both sides of its original length and between.
CONFIGS = {
  "llama3": {
    **_LLAMA,
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "mlp_bias": False,
  },
  "llama3.1": {
    **_LLAMA,
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "rope_scaling": {
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64,
    },
    "tie_word_embeddings": False,
    "mlp_bias": False,
  },
  "mixtral": {
    **{k: v for k, v in _LLAMA.items() if k != "attention_bias"},
    "model_type": "mixtral",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
  },
  "aya23": {
    **_LLAMA,
    "model_type": "cohere",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
    "use_qk_norm": False,
  },
  "bloom": {
    "model_type": "bloom",
    "hidden_size": 48,
    "n_layer": 3,
    "n_head": 6,  # not a power of two, as BLOOM's 112 are not
    "vocab_size": 64,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "apply_residual_connection_post_layernorm": False,
  },
  "t5": {**_T5, "model_type": "t5"},
  "mt5": {**_T5, "model_type": "mt5"},
  "umt5": {**_T5, "model_type": "umt5"},
}
LENGTH = 24
# Of the second row, on the left for decoders and on the right for inputs.
PADDING = 5


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float32 values of a tensor: norms near 1, the others of fan-in variance."""
  # RandomState's stream is frozen, that of newer generators is not.
  generator = np.random.RandomState(zlib.crc32(name.encode()))
  drawn = generator.standard_normal(shape)
  if len(shape) == 2:
    return np.float32(drawn / np.sqrt(shape[1]))
  return np.float32(0.2 * drawn + (0 if name.endswith("bias") else 1))


def tokens(case: str) -> np.ndarray:
  """Int32 [2, LENGTH] for the inputs of a case."""
  generator = np.random.RandomState(zlib.crc32(case.encode()))
  return generator.randint(2, 64, (2, LENGTH)).astype(np.int32)


def summary(logits: np.ndarray) -> dict:
  """Of float logits [2, LENGTH, 64]: whole last columns, and each token's sums.

  Digits beyond 1e-6 are not kept.
  """
  logits = logits.astype(np.float64)
  largest = logits.max(axis=-1, keepdims=True)
  normalizer = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
  kept = {
    "last": logits[:, -1],
    "logsumexp": normalizer,
    "weighted": (logits * np.cos(np.arange(logits.shape[-1]))).sum(-1),
  }
  return {name: np.round(x, 6).tolist() for name, x in kept.items()}


def _mixtral_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """`weights` by the names of released files, an expert and matrix each."""
  name = name.replace(".mlp.", ".block_sparse_moe.")
  stem, _, stacked = name.rpartition(".experts.")
  if not stem:
    return weights(name, shape)
  num_experts, outputs, inputs = shape
  parts = ("w1", "w3") if stacked == "gate_up_proj" else ("w2",)
  of_part = (outputs // len(parts), inputs)
  return np.reshape(
    [
      weights(f"{stem}.experts.{e}.{part}.weight", of_part)
      for e in range(num_experts)
      for part in parts
    ],
    shape,
  )


def _model(config: dict):
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  cls = (
    transformers.AutoModelForSeq2SeqLM
    if config["model_type"].endswith("t5")
    else transformers.AutoModelForCausalLM
  )
  settings = {k: v for k, v in config.items() if k != "model_type"}
  model = cls.from_config(
    transformers.AutoConfig.for_model(config["model_type"], **settings),
    dtype=torch.float32,
    attn_implementation="eager",
  ).eval()
  if config["model_type"].endswith("t5"):
    # Fresh models are tied whatever their configuration says; released ones
    # are not.
    model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(model.lm_head.weight)
    )
  is_mixtral = config["model_type"] == "mixtral"
  draw = _mixtral_weights if is_mixtral else weights
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
  return model


def logits_of(case: str) -> np.ndarray:
  """Their logits, float32 [2, LENGTH, 64]."""
  import torch

  model, rows = _model(CONFIGS[case]), torch.from_numpy(tokens(case)).long()
  real = torch.ones_like(rows)
  if CONFIGS[case]["model_type"].endswith("t5"):
    real[1, LENGTH - PADDING :] = 0
    targets = torch.roll(rows, 1, dims=0)
    targets[:, 0] = 0
    given = {"decoder_input_ids": targets}
  else:
    real[1, :PADDING] = 0
    given = {}
    if CONFIGS[case]["model_type"] != "bloom":
      given["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
  with torch.no_grad():
    return model(input_ids=rows, attention_mask=real, **given).logits.numpy()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", required=True)
  parser.add_argument("--whole_logits", help="an .npz file for all of them")
  arguments = parser.parse_args()
  import torch
  import transformers

  logits = {case: logits_of(case) for case in CONFIGS}
  golden = {
    "made_by": "benchmarks/hugging_face_parity.py",
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "cases": {case: summary(x) for case, x in logits.items()},
  }
  with open(arguments.output, "w") as f:
    json.dump(golden, f)
    f.write("\n")
  if arguments.whole_logits:
    np.savez(arguments.whole_logits, **logits)


if __name__ == "__main__":
  main()
