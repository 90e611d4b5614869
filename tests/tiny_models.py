"""Configurations of one tiny model a family; tests replace what they vary."""

from mlm.models import decoder, encdec

DECODER = decoder.DecoderConfig(
  vocab_size=48,
  num_layers=2,
  d_model=16,
  d_ff=24,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  position_encoding="rotary_halves",
  rope_theta=10000.0,
  rope_scaling=None,
  norm="rms",
  norm_epsilon=1e-5,
  mlp="swiglu",
  parallel_block=False,
  use_biases=False,
  normalize_embedding=False,
  tie_embeddings=False,
  logit_scale=1.0,
  activation_dtype="float32",
  remat="none",
)
ENCODER_DECODER = encdec.EncoderDecoderConfig(
  vocab_size=48,
  num_encoder_layers=2,
  num_decoder_layers=2,
  d_model=16,
  d_ff=24,
  num_heads=2,
  head_dim=6,
  num_buckets=8,
  max_distance=12,
  relative_bias="stack",
  norm_epsilon=1e-6,
  activation_dtype="float32",
  remat="none",
)
