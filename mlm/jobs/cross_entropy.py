"""The cross-entropy of the jobs that train on tokens: languages by their code."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.languages import registry
from mlm.training import loss_weights, losses


def cross_entropy(
  *,
  z_loss: float,
  label_smoothing: float,
  token_weights: Callable[[dict], jax.Array],
  language_weights: Mapping[str, float] | None,
) -> Callable:
  """`mlm.training.losses.cross_entropy_loss` with all but the model given.

  Args:
    z_loss: weight of the squared log-normalizer.
    label_smoothing: probability that targets leave to all other pieces.
    token_weights: of `mlm.training.loss_weights`.
    language_weights: code -> factor of its tokens in the mean, >= 0; the other
      languages have 1. None for 1 everywhere.

  Returns:
    apply -> loss_fn.

  Raises:
    UnknownLanguageError: if a code is none of the registry's.
    ValueError: if a factor is negative, or label_smoothing out of range.
  """
  losses.check_label_smoothing(label_smoothing)
  if language_weights is not None:
    factors = [1.0] * registry.NUM_LANGUAGES
    for code, factor in language_weights.items():
      if factor < 0:
        raise ValueError(f"the weight of {code}, {factor}, must be 0 or more")
      factors[registry.index(code)] = factor
    token_weights = loss_weights.times_language(
      token_weights, jnp.float32(factors)
    )
  return functools.partial(
    losses.cross_entropy_loss,
    z_loss=z_loss,
    label_smoothing=label_smoothing,
    token_weights=token_weights,
    backend=linear_cross_entropy.default_backend(),
    num_languages=registry.NUM_LANGUAGES,
  )
