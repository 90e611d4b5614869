"""The families that are decoded, tiny, with their training forward."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.models import decoder, encdec
from tests import tiny_models

PAD = 0
_LLAMA = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=12,
  rope_scaling={"factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 9},
)
CONFIGS = {
  "llama": _LLAMA,
  "cohere": dataclasses.replace(
    _LLAMA,
    position_encoding="rotary_pairs",
    rope_scaling=None,
    norm="layer",
    parallel_block=True,
    tie_embeddings=True,
    logit_scale=0.5,
  ),
  "bloom": dataclasses.replace(
    _LLAMA,
    num_heads=3,
    num_kv_heads=3,
    position_encoding="alibi",
    rope_theta=None,
    rope_scaling=None,
    norm="layer",
    mlp="gelu",
    use_biases=True,
    normalize_embedding=True,
    tie_embeddings=True,
  ),
  "mt5": dataclasses.replace(tiny_models.ENCODER_DECODER, vocab_size=12),
}


class Family(NamedTuple):
  """A model, its params, and the logits that training would compute.

  Attributes:
    model: of `mlm.models`.
    params: under which every path matters to the logits.
    forward: (prompts int32 [N, P], responses int32 [N, R]) -> float [N, R, V],
      the logits of each response token, by `apply`.
  """

  model: Any
  params: Any
  forward: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _family(config) -> Family:
  """A family of a configuration, with random params."""
  is_decoder = isinstance(config, decoder.DecoderConfig)
  model = (decoder if is_decoder else encdec).build(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )
  apply = jax.jit(model.apply)

  def forward(prompts, responses):
    if is_decoder:
      rows = np.concatenate([prompts, responses[:, :-1]], axis=1)
      first = prompts.shape[1] - 1
      inputs = {}
    else:
      rows = np.pad(responses[:, :-1], ((0, 0), (1, 0)))
      first = 0
      inputs = {
        "encoder_input_tokens": prompts,
        "encoder_segment_ids": np.int32(prompts != PAD),
      }
    # PAD may be drawn, and what follows the end is read by nobody before it.
    real = rows != PAD
    real[:, first:] = True
    outputs = apply(
      params,
      {
        **inputs,
        "decoder_input_tokens": rows,
        "decoder_positions": np.maximum(np.cumsum(real, axis=1) - 1, 0),
        "decoder_segment_ids": np.int32(real),
      },
    )
    hidden, unembedding = (
      np.asarray(outputs[name], np.float32)
      for name in ("hidden", "unembedding")
    )
    return hidden[:, first:] @ unembedding

  return Family(model, params, forward)


@pytest.fixture(scope="session")
def family_of():
  """(name, **changed fields of its configuration) -> Family."""

  def of(name, **changes):
    return _family(dataclasses.replace(CONFIGS[name], **changes))

  return of


@pytest.fixture(scope="session")
def llama(family_of):
  return family_of("llama")


@pytest.fixture(scope="session")
def mt5(family_of):
  return family_of("mt5")


@pytest.fixture(scope="session", params=CONFIGS)
def family(request, family_of):
  if request.param in ("llama", "mt5"):
    return request.getfixturevalue(request.param)
  return family_of(request.param)
