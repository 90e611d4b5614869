"""A step of RLOO learns the same whether or not prompts take places."""

import dataclasses

import jax
import numpy as np

from mlm.alignment import estimators, rloo, rollout_batches
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.models import decoder
from mlm.tokenizers import special
from mlm.training import state as train_state
from tests import tiny_models

P, R, K = 6, 5, 2
MODEL = decoder.build(dataclasses.replace(tiny_models.DECODER, vocab_size=12))
ESTIMATOR = estimators.paper(kl_coefficient=0.25)
# Five prompts of different lengths, padded on the left.
ROWS = np.where(np.arange(P) < np.array([[0], [2], [5], [3], [1]]), 0, 7)


def _source(prompts_at_once, history, reference):
  rollout = rollout_batches.make_rollout(
    prompts=lambda step: {
      "prompts": ROWS.astype(np.int32),
      "prompt_ids": np.arange(len(ROWS), dtype=np.uint32) + step,
      "language_ids": np.array([0, 2, 1, 1, 0], np.int32),
    },
    sample=rollouts.make_sampler(
      MODEL,
      response_length=R,
      samples_per_prompt=K,
      temperature=1.0,
      eos_id=special.EOS_ID,
      pad_id=special.PAD_ID,
      prompts_at_once=prompts_at_once,
    ),
    to_batch=lambda rows, ids: prompts.response_batch(
      rows, ids, prompt_length=P
    ),
    place=lambda batch: batch,
    logprobs=rollout_batches.make_rollout_logprobs(
      MODEL.apply, MODEL.apply, backend="reference"
    ),
    reference=reference,
    score=lambda rows, responses, ids: {
      "sum": responses.sum(axis=1).astype(np.float32)
    },
    reward_of_parts=lambda parts: parts["sum"],
    max_logprob_gap=1e-4,
    seed=3,
    eos_id=special.EOS_ID,
  )
  return rloo.make_batch_source(
    rollout,
    policy_of=lambda params: params,
    estimator=ESTIMATOR,
    updates_per_rollout=1,
    history=str(history),
  )


def test_a_batch_of_rloo_is_the_same_with_refill(tmp_path):
  policy, reference = (
    jax.tree.map(lambda x: 6 * x, MODEL.init(jax.random.key(i)))
    for i in range(2)
  )
  state = train_state.TrainState(step=2, params=policy, opt_state=None)
  plain, refilled = (
    _source(at_once, tmp_path / str(at_once), reference)(state)
    for at_once in (None, 2)
  )
  assert len(set(plain["length"])) > 2  # of several lengths
  assert set(plain) == set(refilled)
  for name, values in plain.items():
    if name != "logprob_gap":  # which is of decoding, and has its bound
      np.testing.assert_array_equal(values, refilled[name], err_msg=name)
