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
Letters: B prompts, K samples a prompt, N = B * K rows, T tokens a row.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.alignment import estimators
from mlm.sharding import mesh as mesh_lib
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
    [N, T], advantages, reward, kl, length, ended, logprob_gap and
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
    length = batch["length"]
    log_ratios = jnp.abs((logprobs - batch["sampled_logprobs"]) * weights)
    names = [name for name in batch if name.startswith("reward_")]
    values = {
      **{
        name: (batch[name], 1)
        for name in ("reward", "kl", "length", "ended", "logprob_gap", *names)
      },
      "kl_per_token": (batch["kl"], length),
      "equal_groups": (batch["is_equal_group"], 1),
      "log_ratio_per_token": (log_ratios.sum(axis=1), length),
    }
    if estimator.clip is not None:
      values["clipped"] = (clipped.sum(axis=1), counted.sum(axis=1))
    metrics = losses.row_metrics(
      values, batch["language_ids"], num_languages=num_languages
    )
    return loss, {"loss": (loss, jnp.float32(1)), **metrics}

  return loss_fn


def make_logprob_pair(
  apply: Callable, reference_apply: Callable, *, backend: str
) -> Callable:
  """Jitted (params, reference, batch) -> two float32 [N, T] of log-probs.

  Each is 0 outside of the response. Policy and reference go through the same
  forward as training, so the policy equal to the reference gives a difference
  of exactly 0.

  Args:
    apply: of the policy's params.
    reference_apply: of the reference's, which are fewer where the policy is
      adapters over it.
    backend: of the linear cross-entropy kernel.
  """

  @mesh_lib.jit
  def logprob_pair(params, reference, batch):
    return tuple(
      losses.token_logprobs(of, p, batch, backend=backend)
      * batch["decoder_loss_weights"]
      for of, p in ((apply, params), (reference_apply, reference))
    )

  return logprob_pair


def logprob_gap(
  sampled: np.ndarray,
  generated: np.ndarray,
  lengths: np.ndarray,
) -> np.ndarray:
  """Largest |difference| of a response's log-probabilities, float32 [N].

  Decoding with a cache and the training forward round differently; more than
  that means that the policy learns from samples of another distribution.

  Args:
    sampled: float32 [N, T] by the training forward; R targets from the end of
      the prompt on.
    generated: float32 [N, R] by the decoder.
    lengths: int [N], tokens of the responses.
  """
  response_length = generated.shape[1]
  by_training = sampled[:, sampled.shape[1] - response_length :]
  is_real = np.arange(response_length) < lengths[:, None]
  return np.max(np.abs(by_training - generated) * is_real, axis=1)


def _rewards_before(path: str, step: int) -> list[float]:
  """Mean shaped rewards of the steps before one."""
  metrics_lib.drop_from(path, step)
  if not os.path.exists(path):
    return []
  return [line["shaped_reward"] for line in metrics_lib.read(path)]


def make_batch_source(
  *,
  prompts: Callable[[int], dict[str, np.ndarray]],
  sample: Callable,
  to_batch: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
  place: Callable[[Any], Any],
  logprob_pair: Callable,
  policy_of: Callable[[Any], Any],
  reference: Any,
  score: Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]],
  reward_of_parts: Callable[[dict[str, np.ndarray]], np.ndarray],
  estimator: estimators.Estimator,
  updates_per_rollout: int,
  max_logprob_gap: float,
  history: str,
  seed: int,
  eos_id: int,
) -> Callable[[Any], dict[str, np.ndarray]]:
  """Builds the batch source that samples from the current policy.

  Args:
    prompts: step -> {"prompts": int32 [B, P], "prompt_ids": uint32 [B],
      "language_ids": int32 [B]}.
    sample: of `mlm.decoding.rollouts.make_sampler`.
    to_batch: (rows int32 [N, P + R], language ids int32 [N]) -> batch.
    place: puts a dict of host arrays on the mesh, first axis split.
    logprob_pair: of `make_logprob_pair`.
    policy_of: the state's params -> what `sample` and `logprob_pair` take.
    reference: reference params, frozen.
    score: (rows, responses int32 [N, R], language ids [N]) -> parts [N] each.
    reward_of_parts: parts -> reward [N].
    estimator: of the gradient.
    updates_per_rollout: steps whose responses are sampled from one policy, that
      of the first of them; each response is learned from once.
    max_logprob_gap: largest `logprob_gap` that a rollout may have.
    history: file of mean rewards by step, for a moving average.
    seed: of the sampling keys.
    eos_id: token that ends a response.

  Returns:
    batch_source(state) -> batch as `rloo_loss` reads it. It raises
    FloatingPointError where decoding and the training forward disagree by more
    than max_logprob_gap.
  """
  earlier: list[float] | None = None
  ready: dict[int, dict] = {}

  def rollout(params, step):
    drawn = prompts(step)
    placed = place(
      {"prompts": drawn["prompts"], "prompt_ids": drawn["prompt_ids"]}
    )
    policy = policy_of(params)
    generated = jax.tree.map(
      np.asarray,
      sample(policy, placed["prompts"], placed["prompt_ids"], seed, step),
    )
    responses = generated.tokens
    num_prompts, num_samples, response_length = responses.shape
    responses = responses.reshape(-1, response_length)
    language_ids = np.repeat(drawn["language_ids"], num_samples)
    rows = np.concatenate(
      [np.repeat(drawn["prompts"], num_samples, axis=0), responses], axis=1
    )
    batch = to_batch(rows, language_ids)
    sampled, frozen = map(
      np.asarray, logprob_pair(policy, reference, place(batch))
    )
    gap = logprob_gap(
      sampled,
      generated.model_logprobs.reshape(responses.shape),
      generated.lengths.reshape(-1),
    )
    if not gap.max() <= max_logprob_gap:
      worst = int(np.argmax(gap))
      raise FloatingPointError(
        f"step {step}: log-probabilities of decoding and of the training forward "
        f"differ by {gap.max():.3g} in a response to prompt "
        f"{worst // num_samples}, more than max_logprob_gap {max_logprob_gap}: "
        "the policy would learn from samples of another distribution; raise "
        "MAX_LOGPROB_GAP if it is rounding (bfloat16), else find the cause"
      )
    weights = batch["decoder_loss_weights"]
    parts = score(rows, responses, language_ids)
    reward = reward_of_parts(parts)
    of_prompts = (num_prompts, num_samples)
    raw = reward.reshape(of_prompts)
    kl = np.asarray(estimators.token_kl(estimator, sampled, frozen, weights))
    found, shaped = estimators.advantages(
      estimator,
      raw,
      kl.sum(axis=1).reshape(of_prompts),
      earlier=np.array(earlier),
    )
    if estimator.baseline == "moving_average":
      earlier.append(float(shaped.mean()))
      metrics_lib.append(history, {"step": step, "shaped_reward": earlier[-1]})
    as_rows = {
      "sampled_logprobs": sampled,
      "reference_logprobs": frozen,
      "advantages": found.reshape(-1),
      "reward": reward,
      "kl": (sampled - frozen).sum(axis=1),
      "length": weights.sum(axis=1),
      "ended": (responses == eos_id).any(axis=1),
      "logprob_gap": gap,
      "is_equal_group": np.repeat(np.ptp(raw, axis=1) == 0, num_samples),
      **{f"reward_{name}": values for name, values in parts.items()},
    }
    batch.update(
      {name: np.asarray(v, np.float32) for name, v in as_rows.items()}
    )
    batch["language_ids"] = language_ids.astype(np.int32)
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
      ready.update({s: rollout(state.params, s) for s in range(step, stop)})
    return ready.pop(step)

  return batch_source
