"""RLOO and its relatives as a batch source and a loss.

One step of the paper's, in four sentences. The current policy samples k
responses for each prompt. Each gets a reward minus beta times its
log-probability ratio to the frozen reference, summed over the response. Its
advantage is that number minus the mean of its k - 1 siblings' numbers. The loss
is minus the mean of the advantage times the summed log-probability of the
response.

What other libraries do instead is a setting of `mlm.alignment.estimators`. With
one update a rollout no ratio is needed; with more, ratios are to the
log-probabilities of when the rollout was made. All log-probabilities come from
the training forward.

Source: Ahmadian et al. 2024, "Back to Basics", section 2.3; Kool et al. 2019.
Letters: B prompts, K samples a prompt, N = B * K rows, R response columns.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from mlm.alignment import estimators, rollout_batches
from mlm.training import losses
from mlm.training import metrics as metrics_lib


def rloo_loss(
  apply: Callable,
  *,
  estimator: estimators.Estimator,
  backend: str,
  num_languages: int,
) -> Callable:
  """Builds the surrogate loss of an estimator.

  Args:
    apply: decoder apply.
    estimator: of the gradient.
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The batch is a
    prompt–response batch with sampled_logprobs and reference_logprobs, float32
    [N, R], advantages, reward, kl, entropy, length, ended, logprob_gap and
    is_equal_group, float32 [N], language_ids int32 [N], and reward_<part> float32 [N] a part.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    logprobs = losses.token_logprobs(apply, params, batch, backend=backend)
    weights = batch["decoder_loss_weights"]
    loss, clipped, counted = estimators.surrogate(
      estimator,
      logprobs,
      sampled=batch["sampled_logprobs"],
      reference=batch["reference_logprobs"],
      advantages=batch["advantages"],
      weights=weights,
    )
    log_ratios = jnp.abs((logprobs - batch["sampled_logprobs"]) * weights)
    values = {
      **rollout_batches.row_values(batch),
      "log_ratio_per_token": (log_ratios.sum(axis=1), batch["length"]),
    }
    if estimator.clip is not None:
      values["clipped"] = (clipped.sum(axis=1), counted.sum(axis=1))
    metrics = losses.row_metrics(
      values, batch["language_ids"], num_languages=num_languages
    )
    return loss, {"loss": (loss, jnp.float32(1)), **metrics}

  return loss_fn


def _rewards_before(path: str, step: int) -> list[float]:
  """Mean shaped rewards of the steps before one."""
  metrics_lib.drop_from(path, step)
  if not os.path.exists(path):
    return []
  return [line["shaped_reward"] for line in metrics_lib.read(path)]


def make_batch_source(
  rollout: Callable,
  *,
  policy_of: Callable[[Any], Any],
  estimator: estimators.Estimator,
  updates_per_rollout: int,
  history: str,
) -> Callable[[Any], dict[str, np.ndarray]]:
  """Builds the batch source that samples from the current policy.

  Args:
    rollout: of `rollout_batches.make_rollout`.
    policy_of: the state's params -> the policy's that rollout takes.
    estimator: of the gradient.
    updates_per_rollout: steps whose responses are sampled from one policy, that
      of the first of them; each response is learned from once.
    history: file of mean rewards by step, for a moving average.

  Returns:
    batch_source(state) -> batch as `rloo_loss` reads it.
  """
  earlier: list[float] | None = None
  ready: dict[int, dict] = {}

  def with_advantages(policy, step):
    batch, of_prompts = rollout(policy, step)
    kl = np.asarray(
      estimators.token_kl(
        estimator,
        batch["sampled_logprobs"],
        batch["reference_logprobs"],
        batch["decoder_loss_weights"],
      )
    )
    found, shaped = estimators.advantages(
      estimator,
      batch["reward"].reshape(of_prompts),
      kl.sum(axis=1).reshape(of_prompts),
      earlier=np.array(earlier),
    )
    if estimator.baseline == "moving_average":
      earlier.append(float(shaped.mean()))
      metrics_lib.append(history, {"step": step, "shaped_reward": earlier[-1]})
    batch["advantages"] = np.asarray(found.reshape(-1), np.float32)
    return batch

  def batch_source(state):
    nonlocal earlier
    step = int(state.step)
    if earlier is None:
      earlier = _rewards_before(history, step)
      if step % updates_per_rollout:
        logging.warning(
          "resuming at step %d, within a rollout of %d updates: its remaining "
          "prompts are sampled again, from the present policy",
          step,
          updates_per_rollout,
        )
    if step not in ready:
      stop = (step // updates_per_rollout + 1) * updates_per_rollout
      policy = policy_of(state.params)
      ready.update({s: with_advantages(policy, s) for s in range(step, stop)})
    return ready.pop(step)

  return batch_source
