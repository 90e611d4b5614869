"""Small models and runs for tests of the planner."""

from mlm.models import decoder, moe
from mlm.planning import runs


def config(experts=None, **changes):
  """A rotary decoder; D 1024, F 4096, 8 layers, unless changed."""
  fields = {
    "vocab_size": 32768,
    "num_layers": 8,
    "d_model": 1024,
    "d_ff": 4096,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 128,
    "position_encoding": "rotary_halves",
    "rope_theta": 1e4,
    "rope_scaling": None,
    "norm": "rms",
    "norm_epsilon": 1e-5,
    "mlp": "swiglu",
    "parallel_block": False,
    "use_biases": False,
    "normalize_embedding": False,
    "tie_embeddings": False,
    "logit_scale": 1.0,
    "activation_dtype": "bfloat16",
    "remat": "full",
  }
  if experts is not None:
    fields["moe"] = moe.MoEConfig(
      num_experts=experts[0],
      num_experts_per_token=experts[1],
      renormalize=True,
      capacity_factor=None,
      load_balancing_weight=0.0,
      router_z_weight=0.0,
    )
  return decoder.DecoderConfig(**{**fields, **changes})


def run(model=None, **changes):
  fields = {
    "name": "case",
    "model": model or config(),
    "topology": "v5p:4x4x4",
    "num_slices": 1,
    "mesh": {"fsdp": 16, "tensor": 4},
    "batch_size": 64,
    "sequence_length": 2048,
    "num_microbatches": 1,
  }
  return runs.Run(**{**fields, **changes})
