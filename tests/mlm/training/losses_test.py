import jax
import numpy as np
import optax
import pytest
import scipy.special

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.training import loss_weights, losses

BACKEND = linear_cross_entropy.default_backend()


def _loss_fn(
  model, z_loss, label_smoothing=0.0, token_weights=loss_weights.per_token
):
  return losses.cross_entropy_loss(
    model.apply,
    z_loss=z_loss,
    label_smoothing=label_smoothing,
    token_weights=token_weights,
    backend=BACKEND,
    num_languages=5,
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


def test_smoothed_loss_is_the_cross_entropy_with_smoothed_targets_by_optax(
  tiny_model, make_batch, params
):
  batch, e = make_batch(5), 0.1
  loss, metrics = _loss_fn(tiny_model, 0.0, e)(params, None, batch, None)
  outputs = tiny_model.apply(params, batch)
  logits = outputs["hidden"] @ outputs["unembedding"]
  num_pieces = logits.shape[-1]
  targets = jax.nn.one_hot(batch["decoder_target_tokens"], num_pieces)
  # t5x: 1 - e for the target, e over the others, minus the targets' entropy.
  smoothed = targets * (1 - e) + (1 - targets) * e / (num_pieces - 1)
  losses_BT = optax.softmax_cross_entropy(logits, smoothed)
  losses_BT += (smoothed * np.log(smoothed)).sum(-1)
  weights = batch["decoder_loss_weights"]
  expected = (losses_BT * weights).sum() / weights.sum()
  assert float(loss) == pytest.approx(float(expected), rel=1e-5)
  # What is reported does not know of it.
  plain, _ = _loss_fn(tiny_model, 0.0)(params, None, batch, None)
  reported = metrics["loss"][0] / metrics["loss"][1]
  assert float(reported) == pytest.approx(float(plain), rel=1e-6)
  assert float(loss) != pytest.approx(float(plain), rel=1e-3)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_an_error(tiny_model, label_smoothing):
  with pytest.raises(ValueError, match="label_smoothing"):
    _loss_fn(tiny_model, 0.0, label_smoothing)


def _packed(batch):
  """Two segments of unequal length and padding in every row."""
  batch = {name: np.array(of) for name, of in batch.items()}
  batch["decoder_segment_ids"][:] = [1, 1, 1, 1, 2, 0]
  batch["decoder_loss_weights"][:, 4:] = [1, 0]
  return batch


def test_weights_by_sequence_make_the_mean_of_the_sequences_means(
  tiny_model, make_batch, params
):
  batch = _packed(make_batch(6))
  loss, metrics = _loss_fn(
    tiny_model, 0.0, token_weights=loss_weights.per_sequence
  )(params, None, batch, None)
  _, logprobs = _numpy_statistics(tiny_model, params, batch)
  means = []
  for row, weights, segments in zip(
    logprobs, batch["decoder_loss_weights"], batch["decoder_segment_ids"]
  ):
    for segment in (1, 2):
      chosen = weights * (segments == segment)
      means.append(-(row * chosen).sum() / chosen.sum())
  assert float(loss) == pytest.approx(np.mean(means), rel=1e-5)
  assert float(metrics["loss_weight"][0]) == pytest.approx(len(means), rel=1e-6)
  assert float(metrics["loss"][1]) == batch["decoder_loss_weights"].sum()


def test_sequence_without_a_target_has_no_weight(make_batch):
  batch = _packed(make_batch(7))
  batch["decoder_loss_weights"][0, :4] = 0
  weights = np.asarray(loss_weights.per_sequence(batch))
  np.testing.assert_array_equal(weights[0], [0, 0, 0, 0, 1, 0])


def test_language_weights_multiply_numerator_and_denominator(
  tiny_model, make_batch, params
):
  batch = make_batch(8)
  factors = np.array([0.0, 1.0, 3.0, 1.0, 1.0])
  loss, metrics = _loss_fn(
    tiny_model,
    0.0,
    token_weights=loss_weights.times_language(loss_weights.per_token, factors),
  )(params, None, batch, None)
  weights = batch["decoder_loss_weights"]
  weights = weights * factors[batch["decoder_language_ids"]]
  _, logprobs = _numpy_statistics(tiny_model, params, batch)
  expected = -(weights * logprobs).sum() / weights.sum()
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  # A language of weight 0 is reported all the same.
  assert float(metrics["loss_by_language"][0][0]) > 0


def test_batch_without_weight_has_no_gradient(tiny_model, make_batch, params):
  batch = make_batch(9)
  batch["decoder_loss_weights"] = 0 * batch["decoder_loss_weights"]
  grads, metrics = jax.grad(_loss_fn(tiny_model, 1e-2), has_aux=True)(
    params, None, batch, None
  )
  assert all(not np.any(g) for g in jax.tree.leaves(grads))
  assert float(metrics["loss"][1]) == 0
