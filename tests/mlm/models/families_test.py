"""Both kinds of models from the fields that a checkpoint holds."""

import dataclasses
import json

import pytest

from mlm.models import decoder, encdec, families

DECODER = decoder.DecoderConfig(
  vocab_size=64,
  num_layers=1,
  d_model=16,
  d_ff=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  position_encoding="rotary_halves",
  rope_theta=1e4,
  rope_scaling=None,
  norm="rms",
  norm_epsilon=1e-5,
  mlp="swiglu",
  parallel_block=False,
  use_biases=False,
  normalize_embedding=False,
  tie_embeddings=True,
  logit_scale=1.0,
  activation_dtype="float32",
  remat="none",
)
ENCODER_DECODER = encdec.EncoderDecoderConfig(
  vocab_size=64,
  num_encoder_layers=1,
  num_decoder_layers=1,
  d_model=16,
  d_ff=32,
  num_heads=2,
  head_dim=8,
  num_buckets=8,
  max_distance=16,
  relative_bias="stack",
  norm_epsilon=1e-6,
  activation_dtype="float32",
  remat="none",
)


@pytest.mark.parametrize("config", [DECODER, ENCODER_DECODER])
def test_a_configuration_comes_back_from_its_json(config):
  fields = json.loads(json.dumps(dataclasses.asdict(config)))
  assert families.config_of(fields) == config
  built = families.build(config)
  assert hasattr(built, "encode") == (config is ENCODER_DECODER)


def test_fields_of_another_version_are_named():
  fields = dataclasses.asdict(DECODER)
  del fields["norm"]
  with pytest.raises(ValueError, match="'norm'; it was made by another"):
    families.config_of(fields)
  with pytest.raises(ValueError, match="'width'; it was made by another"):
    families.config_of({**dataclasses.asdict(ENCODER_DECODER), "width": 3})
