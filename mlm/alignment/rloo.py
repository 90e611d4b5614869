"""RLOO: REINFORCE with a leave-one-out baseline over k responses of a prompt.

One step, in four sentences. The current policy samples k responses for each
prompt. Each gets a reward minus beta times its log-probability ratio to the
frozen reference, summed over the response. Its advantage is that number minus
the mean of its k - 1 siblings' numbers. The loss is minus the mean of the
advantage times the summed log-probability of the response.

One gradient step is taken per rollout, so no ratio and no clipping is needed;
log-probabilities come from the training forward on both sides.

Source: Ahmadian et al. 2024, "Back to Basics", section 2.3; Kool et al. 2019.
Letters: B prompts, K samples a prompt, N = B * K rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.sharding import mesh as mesh_lib
from mlm.training import losses


def leave_one_out_advantages(rewards):
  """Reward minus the mean reward of the siblings.

  A_i = R_i - 1/(k-1) * sum over j != i of R_j, so each prompt's advantages sum
  to 0, and adding a constant to a prompt's rewards changes nothing.

  Args:
    rewards: float [B, K] shaped rewards, K >= 2.

  Returns:
    float [B, K].

  Raises:
    ValueError: if K < 2; there are no siblings to compare with.
  """
  num_samples = rewards.shape[1]
  if num_samples < 2:
    raise ValueError(
      f"RLOO needs at least 2 samples a prompt, got {num_samples}; set "
      "SAMPLES_PER_PROMPT to 2 or more"
    )
  siblings = rewards.sum(axis=1, keepdims=True) - rewards
  return rewards - siblings / (num_samples - 1)


def rloo_loss(apply: Callable, *, backend: str, num_languages: int) -> Callable:
  """Builds -mean(advantage * sum of response log-probabilities).

  Args:
    apply: decoder apply.
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The batch is a
    prompt–response batch with advantages, reward, kl, length and ended,
    float32 [N], language_ids int32 [N], and reward_<part> float32 [N] a part.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    logprobs = losses.sequence_logprobs(apply, params, batch, backend=backend)
    loss = -jnp.mean(batch["advantages"] * logprobs)
    num_rows = jnp.float32(logprobs.shape[0])

    def by_language(values):
      return jax.ops.segment_sum(
        values, batch["language_ids"], num_segments=num_languages
      )

    rows_by_language = by_language(jnp.ones_like(logprobs))
    metrics = {"loss": (loss, jnp.float32(1))}
    names = [name for name in batch if name.startswith("reward_")]
    for name in ["reward", "kl", "length", "ended", *names]:
      metrics[name] = (batch[name].sum(), num_rows)
    for name in ["reward", "kl"]:
      metrics[f"{name}_by_language"] = (
        by_language(batch[name]),
        rows_by_language,
      )
    metrics["kl_per_token"] = (batch["kl"].sum(), batch["length"].sum())
    metrics["equal_groups"] = (
      batch["is_equal_group"].sum(),
      num_rows,
    )
    return loss, metrics

  return loss_fn


def make_logprob_pair(apply: Callable, *, backend: str) -> Callable:
  """Jitted (params, reference, batch) -> two float32 [N] of summed log-probs.

  Policy and reference go through the same forward as training, so the policy
  equal to the reference gives a difference of exactly 0.
  """

  @mesh_lib.jit
  def logprob_pair(params, reference, batch):
    return (
      losses.sequence_logprobs(apply, params, batch, backend=backend),
      losses.sequence_logprobs(apply, reference, batch, backend=backend),
    )

  return logprob_pair


def make_batch_source(
  *,
  prompts: Callable[[int], dict[str, np.ndarray]],
  sample: Callable,
  to_batch: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
  place: Callable[[Any], Any],
  logprob_pair: Callable,
  reference: Any,
  score: Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]],
  reward_of_parts: Callable[[dict[str, np.ndarray]], np.ndarray],
  kl_coefficient: float,
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
    reference: reference params, frozen.
    score: (rows, responses int32 [N, R], language ids [N]) -> parts [N] each.
    reward_of_parts: parts -> reward [N].
    kl_coefficient: beta, weight of the summed log ratio in the reward.
    seed: of the sampling keys.
    eos_id: token that ends a response.

  Returns:
    batch_source(state) -> batch as `rloo_loss` reads it.
  """

  def batch_source(state):
    step = int(state.step)
    drawn = prompts(step)
    placed = place(
      {"prompts": drawn["prompts"], "prompt_ids": drawn["prompt_ids"]}
    )
    responses = np.asarray(
      sample(state.params, placed["prompts"], placed["prompt_ids"], seed, step)
    )
    num_prompts, num_samples, response_length = responses.shape
    responses = responses.reshape(-1, response_length)
    language_ids = np.repeat(drawn["language_ids"], num_samples)
    rows = np.concatenate(
      [np.repeat(drawn["prompts"], num_samples, axis=0), responses], axis=1
    )
    batch = to_batch(rows, language_ids)
    policy, frozen = logprob_pair(state.params, reference, place(batch))
    kl = np.asarray(policy) - np.asarray(frozen)
    parts = score(rows, responses, language_ids)
    reward = reward_of_parts(parts)
    shaped = (reward - kl_coefficient * kl).reshape(num_prompts, num_samples)
    raw = reward.reshape(num_prompts, num_samples)
    equal = np.ptp(raw, axis=1) == 0
    as_rows = {
      "advantages": leave_one_out_advantages(shaped).reshape(-1),
      "reward": reward,
      "kl": kl,
      "length": batch["decoder_loss_weights"].sum(axis=1),
      "ended": (responses == eos_id).any(axis=1),
      "is_equal_group": np.repeat(equal, num_samples),
      **{f"reward_{name}": values for name, values in parts.items()},
    }
    batch.update(
      {name: np.asarray(v, np.float32) for name, v in as_rows.items()}
    )
    batch["language_ids"] = language_ids.astype(np.int32)
    return batch

  return batch_source
