"""Bradley–Terry loss against its closed form; where the score is read."""

import jax
import jax.numpy as jnp
import numpy as np

from mlm.alignment import reward_model

PAD = 0


def _apply(params, batch):
  """A model whose hidden state is the running sum of embeddings."""
  embedded = params["embedding"][batch["decoder_input_tokens"]]
  real = batch["decoder_segment_ids"][..., None]
  return {"hidden": jnp.cumsum(embedded * real, axis=1)}


def _params(seed=0):
  rng = np.random.default_rng(seed)
  params = reward_model.init(
    {"embedding": jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)}, 3
  )
  return {**params, "score": jnp.asarray(rng.normal(size=3), jnp.float32)}


def test_score_is_read_at_the_last_real_token():
  params = _params()
  rows = np.array([[0, 0, 5, 6, 1, 0], [4, 5, 6, 7, 8, 1], [0, 3, 4, 1, 0, 0]])
  got = reward_model.scores(_apply, params, jnp.asarray(rows), pad_id=PAD)
  embedding = np.asarray(params["decoder"]["embedding"])
  for row, value in zip(rows, got):
    total = embedding[row[row != PAD]].sum(0)
    np.testing.assert_allclose(value, total @ params["score"], rtol=1e-5)


def test_padding_after_the_end_changes_nothing():
  params = _params()
  short = jnp.array([[0, 5, 6, 1]])
  padded = jnp.array([[0, 5, 6, 1, 0, 0, 0]])
  np.testing.assert_array_equal(
    reward_model.scores(_apply, params, short, pad_id=PAD),
    reward_model.scores(_apply, params, padded, pad_id=PAD),
  )


def test_loss_equals_its_closed_form_and_counts_by_language():
  params = _params()
  chosen = jnp.array([[0, 5, 6, 1], [0, 0, 7, 1]])
  rejected = jnp.array([[0, 5, 8, 1], [0, 0, 3, 1]])
  loss_fn = reward_model.bradley_terry_loss(
    _apply, centering=0.01, num_languages=4, pad_id=PAD
  )
  batch = {
    "chosen_rows": chosen,
    "rejected_rows": rejected,
    "language_ids": jnp.array([3, 1]),
    "margins": jnp.array([0.0, 0.75]),
  }
  loss, metrics = loss_fn(params, None, batch, None)
  w = reward_model.scores(_apply, params, chosen, pad_id=PAD)
  l = reward_model.scores(_apply, params, rejected, pad_id=PAD)
  margin = np.array([0.0, 0.75])
  expected = np.log1p(np.exp(margin - (w - l))).mean()
  expected += 0.01 * ((w + l) ** 2).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  _, pairs = metrics["accuracy_by_language"]
  np.testing.assert_array_equal(pairs, [0, 1, 0, 1])


def test_pointwise_is_the_cross_entropy_of_good_and_bad():
  params = _params()
  batch = {
    "chosen_rows": jnp.array([[0, 5, 6, 1], [0, 0, 7, 1]]),
    "rejected_rows": jnp.array([[0, 5, 8, 1], [0, 0, 3, 1]]),
    "language_ids": jnp.array([3, 1]),
  }
  loss_fn = reward_model.pointwise_loss(_apply, num_languages=4, pad_id=PAD)
  loss, metrics = loss_fn(params, None, batch, None)
  rows = jnp.concatenate([batch["chosen_rows"], batch["rejected_rows"]])
  scores = reward_model.scores(_apply, params, rows, pad_id=PAD)
  good = np.array([1, 1, 0, 0])
  likely = 1 / (1 + np.exp(-np.asarray(scores, np.float64)))
  expected = -np.log(np.where(good, likely, 1 - likely)).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  accuracy, pairs = metrics["accuracy_by_language"]
  np.testing.assert_array_equal(pairs, [0, 1, 0, 1])
  np.testing.assert_array_equal(
    accuracy[np.array([3, 1])], scores[:2] > scores[2:]
  )


def test_zero_scores_start_at_log_two():
  params = reward_model.init(_params()["decoder"], 3)
  loss_fn = reward_model.bradley_terry_loss(
    _apply, centering=0.01, num_languages=2, pad_id=PAD
  )
  rows = jnp.array([[0, 5, 6, 1]])
  batch = {
    "chosen_rows": rows,
    "rejected_rows": rows + 1,
    "language_ids": jnp.array([0]),
    "margins": jnp.array([0.0]),
  }
  loss, _ = jax.jit(loss_fn)(params, None, batch, None)
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
