"""Parameters, FLOPs and bytes of a decoder in closed form."""

from mlm.models import decoder


def num_params(config: decoder.DecoderConfig) -> int:
  """N = (1 or 2) V D + L (2 D N H + 2 D K H + 3 D F + 2 D) + D."""
  D, H = config.d_model, config.head_dim
  attention = 2 * D * H * (config.num_heads + config.num_kv_heads)
  layer = attention + 3 * D * config.d_ff + 2 * D
  tables = 1 if config.tie_embeddings else 2
  return tables * config.vocab_size * D + config.num_layers * layer + D


def training_flops_per_token(
  config: decoder.DecoderConfig, sequence_length: int
) -> int:
  """Matrix-multiplication FLOPs of forward and backward, for one token.

  6 per weight that multiplies (the lookup of the embedding does not, the output
  matrix does) plus causal attention, 6 L N H T, half of the full square.
  Recomputation is not counted.
  """
  D = config.d_model
  norms = config.num_layers * 2 * D + D
  lookup = 0 if config.tie_embeddings else config.vocab_size * D
  multiplying = num_params(config) - norms - lookup
  width = config.num_heads * config.head_dim
  return 6 * multiplying + 6 * config.num_layers * width * sequence_length


def training_state_bytes(config: decoder.DecoderConfig) -> int:
  """Float32 params, two Adam moments and gradients: 16 bytes a parameter."""
  return 16 * num_params(config)
