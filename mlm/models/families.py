"""Both kinds of models by one name."""

from collections.abc import Mapping
from typing import Any

from mlm.models import backends as backends_lib
from mlm.models import decoder, encdec

Config = decoder.DecoderConfig | encdec.EncoderDecoderConfig


def build(
  config: Config, *, backends: backends_lib.Backends | None = None
) -> decoder.Model | encdec.EncoderDecoder:
  """The model of a configuration of either kind.

  Args:
    config: of the model.
    backends: of its kernels; None for those of this process's platform.
  """
  module = decoder if isinstance(config, decoder.DecoderConfig) else encdec
  return module.build(config, backends=backends)


def config_of(fields: Mapping[str, Any]) -> Config:
  """The configuration whose fields a checkpoint's metadata holds.

  Raises:
    ValueError: if they are not those of a model of today.
  """
  kind = decoder.DecoderConfig
  if "num_encoder_layers" in fields:
    kind = encdec.EncoderDecoderConfig
  try:
    return kind(**fields)
  except TypeError as error:
    raise ValueError(
      f"the checkpoint's model has the fields {', '.join(sorted(fields))}: "
      f"{error}; it was made by another version, train it again"
    ) from error
