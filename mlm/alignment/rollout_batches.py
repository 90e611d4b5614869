"""Rollouts as batches: responses sampled, scored, and their log-probabilities.

What RLOO and PPO share. The log-probabilities of policy and reference come from
the training forward.

Letters: B prompts, K samples a prompt, N = B * K rows, P prompt columns,
R response columns.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mlm.sharding import mesh as mesh_lib
from mlm.training import losses


def make_logprob_pair(
  apply: Callable, reference_apply: Callable, *, backend: str
) -> Callable:
  """Jitted (params, reference, batch) -> two float32 [N, R] of log-probs.

  Each is 0 after the response. Policy and reference go through the same
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


def make_rollout_logprobs(
  apply: Callable, reference_apply: Callable, *, backend: str
) -> Callable:
  """`make_logprob_pair`, and the policy's entropy before each token.

  Args:
    apply: of the policy's params.
    reference_apply: of the reference's.
    backend: of the linear cross-entropy kernel.

  Returns:
    Jitted (params, reference, batch) -> three float32 [N, R]; the entropy is of
    the whole distribution, in nats, not of the token that was drawn.
  """

  @mesh_lib.jit
  def logprobs(params, reference, batch):
    of_policy, entropy = losses.token_logprobs_and_entropy(
      apply, params, batch, backend=backend
    )
    of_reference = losses.token_logprobs(
      reference_apply, reference, batch, backend=backend
    )
    weights = batch["decoder_loss_weights"]
    return tuple(x * weights for x in (of_policy, of_reference, entropy))

  return logprobs


def row_values(batch: dict) -> dict[str, tuple]:
  """What RLOO and PPO tell of a batch's responses, for `losses.row_metrics`.

  Args:
    batch: of `make_rollout`.
  """
  length = batch["length"]
  names = [name for name in batch if name.startswith("reward_")]
  return {
    **{
      name: (batch[name], 1)
      for name in ("reward", "kl", "length", "ended", "logprob_gap", *names)
    },
    "kl_per_token": (batch["kl"], length),
    "entropy_per_token": (batch["entropy"], length),
    "equal_groups": (batch["is_equal_group"], 1),
  }


def logprob_gap(
  sampled: np.ndarray,
  generated: np.ndarray,
  lengths: np.ndarray,
) -> np.ndarray:
  """Largest |difference| of a response's log-probabilities, float32 [N].

  Decoding with a cache and the training forward round differently; more than
  that means that the policy learns from samples of another distribution.

  Args:
    sampled: float32 [N, R] by the training forward.
    generated: float32 [N, R] by the decoder.
    lengths: int [N], tokens of the responses.
  """
  is_real = np.arange(generated.shape[1]) < lengths[:, None]
  return np.max(np.abs(sampled - generated) * is_real, axis=1)


def make_rollout(
  *,
  prompts: Callable[[int], dict[str, np.ndarray]],
  sample: Callable,
  to_batch: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
  place: Callable[[Any], Any],
  logprobs: Callable,
  reference: Any,
  score: Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]],
  reward_of_parts: Callable[[dict[str, np.ndarray]], np.ndarray],
  max_logprob_gap: float,
  seed: int,
  eos_id: int,
) -> Callable[[Any, int], tuple[dict[str, np.ndarray], tuple[int, int]]]:
  """Builds the function that samples and scores the prompts of a step.

  Args:
    prompts: step -> {"prompts": int32 [B, P], "prompt_ids": uint32 [B],
      "language_ids": int32 [B]}.
    sample: of `mlm.decoding.rollouts.make_sampler`.
    to_batch: (rows int32 [N, P + R], language ids int32 [N]) -> batch.
    place: puts a dict of host arrays on the mesh, first axis split.
    logprobs: of `make_rollout_logprobs`.
    reference: reference params, frozen.
    score: (rows, responses int32 [N, R], language ids [N]) -> parts [N] each.
    reward_of_parts: parts -> reward [N].
    max_logprob_gap: largest `logprob_gap` that a rollout may have.
    seed: of the sampling keys.
    eos_id: token that ends a response.

  Returns:
    rollout(policy params, step) -> (batch, (B, K)). The batch is a
    prompt–response batch with sampled_logprobs and reference_logprobs [N, R],
    reward, reward_<part>, kl and entropy (summed over the response), length,
    ended, logprob_gap and is_equal_group [N], all float32, and language_ids
    int32 [N].
    It raises FloatingPointError where decoding and the training forward
    disagree by more than max_logprob_gap.
  """

  def rollout(policy, step):
    drawn = prompts(step)
    placed = place(
      {"prompts": drawn["prompts"], "prompt_ids": drawn["prompt_ids"]}
    )
    generated = jax.tree.map(
      np.asarray,
      sample(policy, placed["prompts"], placed["prompt_ids"], seed, step),
    )
    num_prompts, num_samples, response_length = generated.tokens.shape
    responses = generated.tokens.reshape(-1, response_length)
    language_ids = np.repeat(drawn["language_ids"], num_samples)
    rows = np.concatenate(
      [np.repeat(drawn["prompts"], num_samples, axis=0), responses], axis=1
    )
    batch = to_batch(rows, language_ids)
    sampled, frozen, entropy = map(
      np.asarray, logprobs(policy, reference, place(batch))
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
    parts = score(rows, responses, language_ids)
    reward = reward_of_parts(parts)
    of_prompts = (num_prompts, num_samples)
    spread = np.ptp(reward.reshape(of_prompts), axis=1)
    as_rows = {
      "sampled_logprobs": sampled,
      "reference_logprobs": frozen,
      "reward": reward,
      "kl": (sampled - frozen).sum(axis=1),
      "entropy": entropy.sum(axis=1),
      "length": batch["decoder_loss_weights"].sum(axis=1),
      "ended": (responses == eos_id).any(axis=1),
      "logprob_gap": gap,
      "is_equal_group": np.repeat(spread == 0, num_samples),
      **{f"reward_{name}": values for name, values in parts.items()},
    }
    batch.update(
      {name: np.asarray(v, np.float32) for name, v in as_rows.items()}
    )
    batch["language_ids"] = language_ids.astype(np.int32)
    return batch, of_prompts

  return rollout
