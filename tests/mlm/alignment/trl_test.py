"""Losses and gradients of preference optimisation are those of TRL."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from benchmarks import trl_parity as parity
from mlm.alignment import dpo, estimators, reward_model, rloo, rollout_batches
from mlm.checkpoints import hugging_face
from mlm.data import prompts
from mlm.models import decoder

# What TRL computed; see benchmarks/trl_parity.py.
GOLDEN = json.loads(
  (
    pathlib.Path(__file__).parents[2] / "testdata" / "trl_losses.json"
  ).read_text()
)["cases"]
CONFIG = hugging_face.read_config(
  parity.CONFIG, activation_dtype="float32", remat="none"
)
MODEL = decoder.build(CONFIG)
TRL = estimators.Estimator(
  baseline="siblings",
  advantage_scale="none",
  kl_in="reward",
  kl_estimator="k1",
  kl_coefficient=parity.KL_COEFFICIENT,
  ratio="sequence",
  clip=parity.CLIP,
  average="sequences",
)
# Case -> ours by TRL's name.
OBJECTIVES = {
  "logistic": {},
  "robust": {"loss": "robust", "label_smoothing": parity.SMOOTHING},
  "squared_per_token": {"loss": "squared", "per_token": True},
  "hinge": {"loss": "hinge"},
  "logistic_per_token": {"per_token": True},
  "logistic_and_sft": {"sft_weight": parity.SFT_WEIGHT},
}


_logprobs = rollout_batches.make_logprob_pair(
  MODEL.apply, MODEL.apply, backend="reference"
)


@functools.cache
def _params(other):
  tensors = {
    name: parity.weights(name, shape, other)
    for name, shape in hugging_face.shapes(CONFIG).items()
  }
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.eval_shape(MODEL.init, jax.random.key(0))
  return hugging_face.from_hugging_face(
    CONFIG, tensors, shardings=jax.tree.map(lambda _: device, abstract)
  )


def _batch(rows):
  languages = np.zeros(len(rows), np.int32)
  batch = prompts.response_batch(
    rows, languages, prompt_length=parity.PROMPT_LENGTH
  )
  return {**batch, "language_ids": languages}


def _check(case, loss, gradients):
  """Both within 1e-5, a gradient's entries of the norm of its tensor.

  Float32 on both sides, in another order of sums.
  """
  golden = GOLDEN[case]
  found = parity.summary(loss, gradients)
  scale = max(1.0, abs(golden["loss"]))
  assert found["loss"] == pytest.approx(golden["loss"], abs=1e-5 * scale)
  assert set(found["gradients"]) == set(golden["gradients"])
  for name, (norm, projection) in golden["gradients"].items():
    ours = found["gradients"][name]
    assert ours[0] == pytest.approx(norm, rel=1e-5), name
    assert ours[1] == pytest.approx(projection, abs=1e-5 * norm), name


@jax.jit
def _forward(params, batch):
  return jax.vjp(lambda params: MODEL.apply(params, batch), params)


_pulled_back = jax.jit(lambda pull, cotangents: pull(cotangents)[0])


def _gradients(make_loss, batch):
  """Loss and gradients by their names in TRL; one program of the model for all.

  Args:
    make_loss: apply -> loss_fn.
    batch: of the loss.
  """
  keys = ("input_tokens", "positions", "segment_ids")
  inputs = {f"decoder_{key}": batch[f"decoder_{key}"] for key in keys}
  outputs, pull = _forward(_params(0.0), inputs)
  loss_fn = make_loss(lambda outputs, batch: outputs)
  (loss, _), cotangents = jax.value_and_grad(loss_fn, has_aux=True)(
    outputs, None, batch, None
  )
  gradients = _pulled_back(pull, cotangents)
  return loss, dict(hugging_face.to_hugging_face(CONFIG, gradients))


@pytest.mark.parametrize("case", parity.DPO_CASES)
def test_preference_losses_are_those_of_trl(case):
  settings = {
    "loss": "logistic",
    "beta": parity.BETA,
    "label_smoothing": 0.0,
    "per_token": False,
    "sft_weight": 0.0,
  }
  make_loss = functools.partial(
    dpo.preference_loss,
    objective=dpo.Objective(**{**settings, **OBJECTIVES[case]}),
    backend="reference",
    num_languages=1,
  )
  batch = _batch(parity.pair_rows())
  _, reference = _logprobs(_params(0.0), _params(parity.REFERENCE), batch)
  batch["reference_logprobs"] = np.asarray(reference).sum(axis=1)
  _check(case, *_gradients(make_loss, batch))


@pytest.mark.parametrize("case", parity.RLOO_CASES)
def test_rloo_is_that_of_trl(case):
  other, normalized = parity.RLOO_CASES[case]
  estimator = TRL
  if normalized:
    estimator = dataclasses.replace(TRL, advantage_scale="batch")
  batch = _batch(parity.sample_rows())
  sampled, reference = (
    np.asarray(x)
    for x in _logprobs(_params(other), _params(parity.REFERENCE), batch)
  )
  weights = batch["decoder_loss_weights"]
  of_prompts = (parity.NUM_PROMPTS, parity.NUM_SAMPLES)
  kl = estimators.token_kl(estimator, sampled, reference, weights).sum(axis=1)
  advantages, _ = estimators.advantages(
    estimator,
    np.float32(parity.REWARDS).reshape(of_prompts),
    np.asarray(kl).reshape(of_prompts),
    earlier=np.zeros(0),
  )
  np.testing.assert_allclose(
    advantages.reshape(-1), GOLDEN[case]["advantages"], atol=2e-5
  )
  ones = np.ones(len(weights), np.float32)
  batch |= {
    "sampled_logprobs": sampled,
    "reference_logprobs": reference,
    "advantages": np.float32(advantages.reshape(-1)),
    **dict.fromkeys(
      (
        *("reward", "kl", "entropy", "length", "ended", "logprob_gap"),
        "is_equal_group",
      ),
      ones,
    ),
  }
  make_loss = functools.partial(
    rloo.rloo_loss, estimator=estimator, backend="reference", num_languages=1
  )
  _check(case, *_gradients(make_loss, batch))


def test_the_reward_models_loss_is_that_of_trl():
  rows = parity.pair_rows()
  batch = {
    "chosen_rows": rows[::2],
    "rejected_rows": rows[1::2],
    "language_ids": np.zeros(parity.NUM_PAIRS, np.int32),
    "margins": np.float32(parity.MARGINS),
  }
  loss_fn = reward_model.bradley_terry_loss(
    MODEL.apply,
    centering=parity.CENTERING,
    num_languages=1,
    pad_id=parity.PAD,
  )
  score = parity.weights("score.weight", (1, CONFIG.d_model), 0.0)
  params = {"decoder": _params(0.0), "score": score[0]}
  (loss, _), gradients = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True), static_argnums=(1, 3)
  )(params, None, batch, None)
  tensors = dict(hugging_face.to_hugging_face(CONFIG, gradients["decoder"]))
  del tensors["lm_head.weight"]  # the reward model does not read it
  tensors["score.weight"] = np.asarray(gradients["score"])[None]
  _check("reward", loss, tensors)
