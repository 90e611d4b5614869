"""Parameters, FLOPs and bytes of the models in closed form.

Letters: D model width, N query heads, K key/value heads, H head width,
F feed-forward width, L layers, V vocabulary, E experts.
"""

from mlm.models import decoder, encdec, families


def _multiplying(config: decoder.DecoderConfig, num_mlps: int) -> int:
  """Weights of the matrices in all layers.

  L (2 D N H + 2 D K H + num_mlps (2 or 3) D F), and L D E of routers.
  """
  D, H = config.d_model, config.head_dim
  attention = 2 * D * H * (config.num_heads + config.num_kv_heads)
  num_matrices = 2 if config.mlp == "gelu" else 3
  mlps = num_mlps * num_matrices * D * config.d_ff
  router = 0 if config.moe is None else D * config.moe.num_experts
  return config.num_layers * (attention + mlps + router)


def _num_active(config: decoder.DecoderConfig) -> int:
  """MLPs of a layer that one token passes through."""
  return 1 if config.moe is None else config.moe.num_experts_per_token


def num_params(config: families.Config) -> int:
  """All parameters of a model of either kind, those of every expert too."""
  if not isinstance(config, decoder.DecoderConfig):
    return encoder_decoder_num_params(config)
  num_mlps = 1 if config.moe is None else config.moe.num_experts
  return _num_params(config, num_mlps)


def num_active_params(config: decoder.DecoderConfig) -> int:
  """Parameters that one token meets: of its experts only; both ends count."""
  return _num_params(config, _num_active(config))


def _num_params(config: decoder.DecoderConfig, num_mlps: int) -> int:
  """N = (1 or 2) V D + matrices + norms + biases.

  Norms are 2 L + 1 of D, or L + 1 with parallel blocks, and one more after the
  embedding if it is normalised. Biases are L ((N + 2 K) H + D + F + D), for an
  MLP without gate, and D for each norm.
  """
  D, L = config.d_model, config.num_layers
  tables = 1 if config.tie_embeddings else 2
  norms = L * (1 if config.parallel_block else 2) + 1
  norms += config.normalize_embedding
  total = tables * config.vocab_size * D + norms * D
  total += _multiplying(config, num_mlps)
  if config.use_biases:
    heads = config.num_heads + 2 * config.num_kv_heads
    ups = 1 if config.mlp == "gelu" else 2
    layer = heads * config.head_dim + D + ups * config.d_ff + D
    total += L * layer + norms * D
  return total


def encoder_decoder_num_params(config: encdec.EncoderDecoderConfig) -> int:
  """N = 2 V D + matrices + norms + tables of relative bias.

  A layer of the encoder has 4 D N H + 3 D F + 2 D, one of the decoder
  8 D N H + 3 D F + 3 D; each side has a final norm and 1 or L tables.
  """
  D, N = config.d_model, config.num_heads
  attention, mlp = 4 * D * N * config.head_dim, 3 * D * config.d_ff
  table = config.num_buckets * N
  total = 2 * config.vocab_size * D
  for num_layers, num_attentions in (
    (config.num_encoder_layers, 1),
    (config.num_decoder_layers, 2),
  ):
    norms = num_attentions + 1
    tables = num_layers if config.relative_bias == "layer" else 1
    total += num_layers * (num_attentions * attention + mlp + norms * D)
    total += D + tables * table
  return total


def encoder_decoder_training_flops(
  config: encdec.EncoderDecoderConfig, inputs_length: int, targets_length: int
) -> int:
  """Matrix-multiplication FLOPs of forward and backward, for one row.

  6 per weight and token that multiplies it: the encoder's and those that make
  cross-attention's keys and values see S inputs, the decoder's and the output
  matrix T targets. Attention is 12 N H S^2 in a layer of the encoder, in the
  decoder 6 N H T^2 (half of the square) and 12 N H S T across.
  """
  S, T, D = inputs_length, targets_length, config.d_model
  width = config.num_heads * config.head_dim
  attention, mlp = 4 * D * width, 3 * D * config.d_ff
  encoder = 6 * S * (attention + mlp) + 12 * width * S**2
  decoder_layer = 6 * T * (attention + attention // 2 + mlp)
  decoder_layer += 6 * S * (attention // 2)
  decoder_layer += 6 * width * T**2 + 12 * width * S * T
  return (
    config.num_encoder_layers * encoder
    + config.num_decoder_layers * decoder_layer
    + 6 * T * config.vocab_size * D
  )


def training_flops_per_token(
  config: decoder.DecoderConfig, sequence_length: int
) -> int:
  """Matrix-multiplication FLOPs of forward and backward, for one token.

  6 per weight that multiplies (the lookup of the embedding does not, the output
  matrix does; of the experts only the token's own) plus causal attention,
  6 L N H T, half of the full square. Recomputation is not counted.
  """
  weights = _multiplying(config, _num_active(config))
  weights += config.vocab_size * config.d_model
  width = config.num_heads * config.head_dim
  return 6 * weights + 6 * config.num_layers * width * sequence_length


def recomputed_flops_per_token(
  config: decoder.DecoderConfig, sequence_length: int
) -> int:
  """FLOPs of products that the backward pass makes again, by `remat`.

  "full" runs each block again but for the product that ends it, which no
  gradient needs: 2 per weight of the layers without those of down, and with
  parallel blocks of attention's out, plus causal attention, 2 L N H T. What
  ends a mixture is the weighing of its experts, which needs their outputs, so
  all of it runs again. "minimal" runs attention again, and the experts.
  """
  if config.remat == "none":
    return 0
  D, H, L = config.d_model, config.head_dim, config.num_layers
  attention = 2 * L * config.num_heads * H * sequence_length
  num_matrices = 2 if config.mlp == "gelu" else 3
  if config.remat == "minimal":
    if config.moe is None:
      return attention
    return (
      attention + 2 * L * _num_active(config) * num_matrices * D * config.d_ff
    )
  weights = _multiplying(config, _num_active(config))
  if config.moe is None:
    weights -= L * D * config.d_ff
    if config.parallel_block:
      weights -= L * D * config.num_heads * H
  return 2 * weights + attention


def executed_flops_per_token(
  config: decoder.DecoderConfig, sequence_length: int
) -> int:
  """What a TPU multiplies for one token: training's and all that runs twice.

  Beside what `remat` recomputes, splash attention's backward pass makes the
  logits again, L N H T, and the fused head does, 2 V D.
  """
  width = config.num_heads * config.head_dim
  return (
    training_flops_per_token(config, sequence_length)
    + recomputed_flops_per_token(config, sequence_length)
    + config.num_layers * width * sequence_length
    + 2 * config.vocab_size * config.d_model
  )


def training_state_bytes(config: families.Config) -> int:
  """Float32 params, two Adam moments and gradients: 16 bytes a parameter."""
  return 16 * num_params(config)
