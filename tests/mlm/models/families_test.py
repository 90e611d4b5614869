"""Both kinds of models from the fields that a checkpoint holds."""

import dataclasses
import json

import pytest

from mlm.models import families
from tests import tiny_models

DECODER = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=64,
  num_layers=1,
  d_ff=32,
  num_heads=2,
  num_kv_heads=1,
  tie_embeddings=True,
)
ENCODER_DECODER = dataclasses.replace(
  tiny_models.ENCODER_DECODER,
  vocab_size=64,
  num_encoder_layers=1,
  num_decoder_layers=1,
  d_ff=32,
  head_dim=8,
  max_distance=16,
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
