"""Losses of preference pairs against closed forms."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.alignment import dpo
from mlm.data import prompts
from mlm.languages import registry
from mlm.tokenizers import special
from mlm.training import losses

DIFFERENCES = np.array([-30.0, -2.0, 0.0, 0.5, 40.0])
PAIRS = [
  {
    "id": str(i),
    "language": language,
    "prompt": prompt,
    "chosen": chosen,
    "rejected": rejected,
  }
  for i, (language, prompt, chosen, rejected) in enumerate(
    [
      ("eng_Latn", "bread", "river school", "rain"),
      ("rus_Cyrl", "хлеб", "река", "утро школа мост"),
      ("hin_Deva", "रोटी", "नदी सुबह", "पुल"),
      ("arb_Arab", "خبز", "نهر", "صباح مدرسة"),
      ("tha_Thai", "ขนมปัง", "แม่น้ำ", "เช้า"),
      ("kat_Geor", "პური", "მდინარე დილა", "სკოლა"),
      ("amh_Ethi", "ዳቦ", "ወንዝ", "ጠዋት ትምህርት"),
    ]
  )
]
# A token a character, so that lengths are known.
PROCESSOR = types.SimpleNamespace(encode=lambda text: [ord(c) for c in text])
LENGTHS = {
  "to_batch": prompts.response_batch,
  "processor": PROCESSOR,
  "prompt_length": 10,
  "response_length": 20,
}


def _objective(**changes):
  settings = {
    "loss": "logistic",
    "beta": 0.1,
    "label_smoothing": 0.0,
    "per_token": False,
    "sft_weight": 0.0,
  }
  return dpo.Objective(**{**settings, **changes})


def _of(differences, **changes):
  return np.asarray(_objective(**changes).of(jnp.float32(differences)))


def _softplus(x):
  return np.logaddexp(0, x)


def test_logistic_is_the_negative_log_sigmoid():
  found = _of(DIFFERENCES, beta=0.3)
  np.testing.assert_allclose(found, _softplus(-0.3 * DIFFERENCES), rtol=1e-6)


def test_no_difference_costs_log_two():
  assert _of([0.0]) == pytest.approx(np.log(2))
  assert _of([0.0], label_smoothing=0.2) == pytest.approx(np.log(2))
  assert _of([0.0], loss="robust", label_smoothing=0.2) == pytest.approx(
    np.log(2)
  )


def test_conservative_is_the_expected_loss_of_flipped_labels():
  found = _of(DIFFERENCES, label_smoothing=0.2)
  expected = 0.8 * _of(DIFFERENCES) + 0.2 * _of(-DIFFERENCES)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_robust_is_unbiased_when_labels_are_flipped_at_its_rate():
  """0.8 of the pairs seen as they are, 0.2 the wrong way round."""
  settings = {"loss": "robust", "label_smoothing": 0.2}
  seen = 0.8 * _of(DIFFERENCES, **settings)
  seen += 0.2 * _of(-DIFFERENCES, **settings)
  np.testing.assert_allclose(seen, _of(DIFFERENCES), rtol=1e-5, atol=1e-6)


def test_squared_is_least_at_its_target_and_hinge_beyond_its_own():
  beta = 0.25
  differences = np.linspace(-4, 8, 49)
  squared = _of(differences, loss="squared", beta=beta)
  np.testing.assert_allclose(squared, (differences - 2) ** 2, rtol=1e-6)
  hinge = _of(differences, loss="hinge", beta=beta)
  np.testing.assert_allclose(hinge[differences >= 4], 0)
  np.testing.assert_allclose(
    hinge[differences < 4], 1 - beta * differences[differences < 4], rtol=1e-6
  )


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"loss": "sigmoid"}, "none of logistic"),
    ({"beta": 0.0}, "above 0"),
    ({"label_smoothing": 0.5}, "a half"),
    ({"loss": "hinge", "label_smoothing": 0.1}, "no meaning"),
    ({"sft_weight": -1.0}, "below 0"),
  ],
)
def test_settings_without_meaning_are_refused(changes, told):
  with pytest.raises(ValueError, match=told):
    _objective(**changes)


def _batch(toy, reference):
  batch = toy.batch(8, seed=1)
  return {
    **batch,
    "reference_logprobs": toy.token_logprobs(reference, batch).sum(1),
    "language_ids": np.repeat([2, 0, 2, 1], 2),
  }


def _loss(toy, params, batch, **changes):
  loss_fn = dpo.preference_loss(
    toy.apply,
    objective=_objective(**changes),
    backend="reference",
    num_languages=4,
  )
  return loss_fn(params, None, batch, None)


def test_the_reference_itself_costs_log_two_and_has_no_accuracy(toy):
  params = toy.params(0)
  batch = _batch(toy, params)
  # Its own log-probabilities, as the same program computes them.
  loss_fn = dpo.preference_loss(
    toy.apply, objective=_objective(), backend="reference", num_languages=4
  )
  batch["reference_logprobs"] = losses.sequence_logprobs(
    toy.apply, params, batch, backend="reference"
  )
  loss, metrics = loss_fn(params, None, batch, None)
  assert float(loss) == pytest.approx(np.log(2), rel=1e-6)
  assert [float(x) for x in metrics["accuracy"]] == [0, 0]


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("loss", dpo.LOSSES)
def test_loss_and_metrics_are_those_that_numpy_computes(toy, loss, per_token):
  params, reference = toy.params(0), toy.params(3)
  batch = _batch(toy, reference)
  found, metrics = _loss(
    toy, params, batch, loss=loss, per_token=per_token, sft_weight=0.5
  )
  logprobs = toy.token_logprobs(params, batch).sum(1)
  lengths = batch["decoder_loss_weights"].sum(1)
  ratios = logprobs - batch["reference_logprobs"]
  ratios = ratios / lengths if per_token else ratios
  difference = ratios[::2] - ratios[1::2]
  nll = -logprobs[::2].sum() / lengths[::2].sum()
  pair_losses = _of(difference, loss=loss)
  assert float(found) == pytest.approx(pair_losses.mean() + 0.5 * nll, rel=1e-5)
  ratio = {
    name: float(pair[0] / pair[1])
    for name, pair in metrics.items()
    if not name.endswith("_by_language")
  }
  assert ratio["loss"] == pytest.approx(pair_losses.mean(), rel=1e-5)
  assert ratio["chosen_nll"] == pytest.approx(nll, rel=1e-5)
  assert ratio["accuracy"] == np.mean(difference > 0)
  assert ratio["margin"] == pytest.approx(0.1 * difference.mean(), rel=1e-4)
  margins, counts = metrics["margin_by_language"]
  np.testing.assert_array_equal(counts, [1, 1, 2, 0])
  np.testing.assert_allclose(
    margins[:3],
    0.1 * np.array([difference[1], difference[3], difference[[0, 2]].sum()]),
    rtol=1e-4,
  )


def test_ipo_by_sums_and_by_means_are_different_losses(toy):
  params, reference = toy.params(0), toy.params(3)
  batch = _batch(toy, reference)
  by_sum, _ = _loss(toy, params, batch, loss="squared")
  by_mean, _ = _loss(toy, params, batch, loss="squared", per_token=True)
  assert abs(float(by_sum) - float(by_mean)) > 0.1
  batch["decoder_loss_weights"] = np.zeros_like(batch["decoder_loss_weights"])
  batch["decoder_loss_weights"][:, 3] = 1  # one token each: they are the same
  by_sum, _ = _loss(toy, params, batch, loss="squared")
  by_mean, _ = _loss(toy, params, batch, loss="squared", per_token=True)
  assert float(by_sum) == pytest.approx(float(by_mean))


def test_the_gradient_is_the_weighted_difference_of_two(toy):
  """beta * sigmoid(-beta d) times grad of rejected minus chosen, averaged.

  Rafailov et al. 2023, section 4.
  """
  params, reference = toy.params(0), toy.params(3)
  batch = _batch(toy, reference)

  def logprobs(p):
    return losses.sequence_logprobs(toy.apply, p, batch, backend="reference")

  ratios = logprobs(params) - batch["reference_logprobs"]
  weight = 0.1 * jax.nn.sigmoid(-0.1 * (ratios[::2] - ratios[1::2]))
  jacobian = jax.jacobian(logprobs)(params)
  expected = jax.tree.map(
    lambda j: jnp.einsum("b,bij->ij", weight, j[1::2] - j[::2]) / 4, jacobian
  )
  found = jax.grad(lambda p: _loss(toy, p, batch)[0])(params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected
  )


@pytest.mark.parametrize(
  "to_batch, columns",
  [(prompts.response_batch, 29), (prompts.encoder_decoder_batch, 20)],
)
def test_rows_alternate_and_weigh_the_response_and_its_end(to_batch, columns):
  batch = dpo.pair_batch(PAIRS, **{**LENGTHS, "to_batch": to_batch})
  assert batch["decoder_input_tokens"].shape == (2 * len(PAIRS), columns)
  for i, pair in enumerate(PAIRS):
    for j, side in enumerate(("chosen", "rejected")):
      row = 2 * i + j
      weighted = batch["decoder_loss_weights"][row] == 1
      targets = batch["decoder_target_tokens"][row][weighted].tolist()
      assert targets == [*map(ord, pair[side]), special.EOS_ID]
      assert batch["language_ids"][row] == registry.index(pair["language"])


def test_reference_logprobs_follow_their_pairs_into_any_batch():
  """The log-probability of a row is stood in for by a sum of its tokens."""

  def logprobs(batch):
    targets = batch["decoder_target_tokens"] * batch["decoder_loss_weights"]
    return targets.sum(axis=1)

  reference = dpo.reference_logprobs(
    PAIRS, logprobs=logprobs, batch_size=3, lengths=LENGTHS
  )
  assert reference.shape == (len(PAIRS), 2)
  source = dpo.batch_source(
    PAIRS, reference, batch_size=4, temperature=1.0, seed=5, lengths=LENGTHS
  )
  for step in range(4):
    batch = source(step)
    np.testing.assert_array_equal(batch["reference_logprobs"], logprobs(batch))
    again = source(step)
    for name, array in batch.items():
      np.testing.assert_array_equal(array, again[name])
