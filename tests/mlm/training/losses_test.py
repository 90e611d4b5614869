import jax
import numpy as np
import pytest
import scipy.special

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.training import losses

BACKEND = linear_cross_entropy.default_backend()


def _loss_fn(model, z_loss):
  return losses.cross_entropy_loss(
    model.apply, z_loss=z_loss, backend=BACKEND, num_languages=5
  )


def _numpy_statistics(model, params, batch):
  """Log-normalizers and log-probabilities [B, T] in float64."""
  outputs = model.apply(params, batch)
  logits = np.einsum(
    "BTD,DV->BTV",
    np.asarray(outputs["hidden"], np.float64),
    np.asarray(outputs["unembedding"], np.float64),
  )
  logsumexp = scipy.special.logsumexp(logits, axis=-1)
  targets = batch["decoder_target_tokens"][..., None]
  return logsumexp, np.take_along_axis(logits, targets, -1)[..., 0] - logsumexp


@pytest.fixture
def params(tiny_model):
  return jax.tree.map(lambda x: 5 * x, tiny_model.init(jax.random.key(1)))


def test_loss_is_the_weighted_mean_computed_by_numpy(
  tiny_model, make_batch, params
):
  batch = make_batch(0)
  loss, metrics = _loss_fn(tiny_model, 0.01)(params, None, batch, None)
  weights = batch["decoder_loss_weights"]
  logsumexp, logprobs = _numpy_statistics(tiny_model, params, batch)
  nll = -(weights * logprobs).sum() / weights.sum()
  z = 0.01 * (weights * logsumexp**2).sum() / weights.sum()
  assert float(loss) == pytest.approx(nll + z, rel=1e-5)
  ratios = {k: float(metrics[k][0] / metrics[k][1]) for k in ("loss", "z_loss")}
  assert ratios == pytest.approx({"loss": nll, "z_loss": z}, rel=1e-5)
  assert float(metrics["tokens"][0]) == weights.sum()


def test_languages_add_up_to_the_total_and_are_their_own_mean(
  tiny_model, make_batch, params
):
  batch = make_batch(1)
  _, metrics = _loss_fn(tiny_model, 0.0)(params, None, batch, None)
  sums, counts = metrics["loss_by_language"]
  assert sums.shape == counts.shape == (5,)
  np.testing.assert_allclose(sums.sum(), metrics["loss"][0], rtol=1e-6)
  assert counts.sum() == metrics["loss"][1]
  np.testing.assert_array_equal(counts[3:], 0)
  _, logprobs = _numpy_statistics(tiny_model, params, batch)
  for language in range(3):
    chosen = batch["decoder_language_ids"] == language
    weights = batch["decoder_loss_weights"] * chosen
    assert counts[language] == weights.sum()
    np.testing.assert_allclose(
      sums[language], -(weights * logprobs).sum(), rtol=1e-5
    )


def test_tokens_without_weight_do_not_matter(tiny_model, make_batch, params):
  batch = make_batch(2)
  grad_fn = jax.value_and_grad(_loss_fn(tiny_model, 1e-2), has_aux=True)
  (loss, _), grads = grad_fn(params, None, batch, None)
  other = np.where(
    batch["decoder_loss_weights"] == 0, 9, batch["decoder_target_tokens"]
  )
  assert (other != batch["decoder_target_tokens"]).any()
  batch = {**batch, "decoder_target_tokens": other}
  (same_loss, _), same_grads = grad_fn(params, None, batch, None)
  assert loss == same_loss
  jax.tree.map(np.testing.assert_array_equal, grads, same_grads)


def test_z_loss_gradient_is_its_derivative(tiny_model, make_batch, params):
  """d(c lse^2)/d(logit v) = 2 c lse p_v, so through the head's kernel it is

  sum over tokens of w / sum(w) * 2 c lse * hidden p^T.
  """
  batch, c = make_batch(3), 0.05

  def grads(z_loss):
    fn = jax.grad(_loss_fn(tiny_model, z_loss), has_aux=True)
    return fn(params, None, batch, None)[0]["head"]["kernel"]

  outputs = tiny_model.apply(params, batch)
  hidden = np.asarray(outputs["hidden"], np.float64)
  logits = hidden @ np.asarray(outputs["unembedding"], np.float64)
  weights = batch["decoder_loss_weights"]
  factor = 2 * c * weights * scipy.special.logsumexp(logits, -1) / weights.sum()
  expected = np.einsum(
    "BT,BTD,BTV->DV", factor, hidden, scipy.special.softmax(logits, -1)
  )
  # The difference of two float32 gradients: absolute error of the larger.
  np.testing.assert_allclose(grads(c) - grads(0.0), expected, atol=1e-6)


def test_logprobs_agree_with_numpy(tiny_model, make_batch, params):
  batch = make_batch(4)
  _, expected = _numpy_statistics(tiny_model, params, batch)
  logprobs = losses.token_logprobs(
    tiny_model.apply, params, batch, backend=BACKEND
  )
  np.testing.assert_allclose(logprobs, expected, rtol=1e-5)
  assert logprobs.dtype == np.float32
  sums = losses.sequence_logprobs(
    tiny_model.apply, params, batch, backend=BACKEND
  )
  np.testing.assert_allclose(
    sums, (expected * batch["decoder_loss_weights"]).sum(1), rtol=1e-5
  )
