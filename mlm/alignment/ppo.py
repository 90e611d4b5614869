"""PPO with a critic: the baseline that RLOO does without.

One rollout in five sentences. The policy samples responses, and the critic says
for each token what it expects from there on. A token's reward is minus beta
times its log ratio to the reference, and the last has the response's reward
too. Generalised advantage estimation makes advantages of rewards and values.
For several epochs the responses are learned from in minibatches, ratios and
values being clipped around those of the rollout. The critic starts as the
reward model.

Params are {"policy": decoder params, "value": reward-model params}.

Sources: Schulman et al. 2016 (GAE), equation 16; Schulman et al. 2017 (PPO),
equation 7; Stiennon et al. 2020 for the reward with its KL and a critic apart;
Ouyang et al. 2022 for a critic that starts as the reward model.
Letters: N rows, R response columns, D width.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.alignment import rollout_batches
from mlm.data import schedule
from mlm.sharding import mesh as mesh_lib
from mlm.training import losses

# Beside 1e-8 of a standard deviation, as in the implementations.
_LEAST_DEVIATION = 1e-8


@dataclasses.dataclass(frozen=True)
class Settings:
  """What PPO is made of.

  Attributes:
    kl_coefficient: beta of the tokens' rewards, >= 0.
    discount: gamma, in (0, 1].
    gae_lambda: in [0, 1]; 1 is the return minus the value.
    whiten: whether advantages have mean 0 and deviation 1 over a rollout's
      tokens.
    clip: largest |ratio - 1| from which there is gradient, > 0.
    value_clip: largest change of a value from the rollout's that is learned,
      > 0.
    value_coefficient: of the critic's loss beside the policy's, >= 0.
    num_epochs: times that a rollout is learned from, >= 1.
    num_minibatches: updates an epoch, >= 1.
  """

  kl_coefficient: float
  discount: float
  gae_lambda: float
  whiten: bool
  clip: float
  value_clip: float
  value_coefficient: float
  num_epochs: int
  num_minibatches: int

  def __post_init__(self):
    if not 0 < self.discount <= 1 or not 0 <= self.gae_lambda <= 1:
      raise ValueError(
        f"discount {self.discount} must be in (0, 1] and gae_lambda "
        f"{self.gae_lambda} in [0, 1]"
      )
    if min(self.clip, self.value_clip) <= 0:
      raise ValueError(
        f"clip {self.clip} and value_clip {self.value_clip} must be above 0"
      )
    if min(self.kl_coefficient, self.value_coefficient) < 0:
      raise ValueError(
        f"kl_coefficient {self.kl_coefficient} and value_coefficient "
        f"{self.value_coefficient} must not be below 0"
      )
    if min(self.num_epochs, self.num_minibatches) < 1:
      raise ValueError(
        f"num_epochs {self.num_epochs} and num_minibatches "
        f"{self.num_minibatches} must be 1 or more"
      )

  @property
  def updates_per_rollout(self) -> int:
    return self.num_epochs * self.num_minibatches


def token_rewards(
  reward: np.ndarray,
  kl: np.ndarray,
  weights: np.ndarray,
  *,
  kl_coefficient: float,
) -> np.ndarray:
  """-beta * KL of each response token, and the reward at the last, [N, R].

  Args:
    reward: float [N].
    kl: float [N, R], log ratio of each response token.
    weights: [N, R], 1 on response tokens.
    kl_coefficient: beta.
  """
  last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1], axis=1)
  found = -kl_coefficient * kl * weights
  found[np.arange(len(found)), last] += reward
  return found


def generalized_advantages(
  rewards: np.ndarray,
  values: np.ndarray,
  weights: np.ndarray,
  *,
  discount: float,
  gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
  """A_t = sum over l of (gamma lambda)^l delta_{t+l}, and A_t + V_t.

  delta_t = r_t + gamma V_{t+1} - V_t; after a response's last token V is 0.

  Args:
    rewards: float [N, R].
    values: float [N, R], of the state before each token.
    weights: [N, R], 1 on response tokens, which are neighbours.
    discount: gamma.
    gae_lambda: lambda.

  Returns:
    (advantages, returns), float [N, R], 0 outside of the response.
  """
  values = values * weights
  found = np.zeros_like(values)
  advantage = np.zeros(len(values), values.dtype)
  following = np.zeros(len(values), values.dtype)
  for t in reversed(range(values.shape[1])):
    delta = rewards[:, t] + discount * following - values[:, t]
    advantage = (delta + discount * gae_lambda * advantage) * weights[:, t]
    found[:, t] = advantage
    following = values[:, t]
  return found, (found + values) * weights


def whitened(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Mean 0 and deviation 1 over the weighted entries; 0 elsewhere."""
  total = weights.sum()
  mean = (values * weights).sum() / total
  variance = ((values - mean) ** 2 * weights).sum() / total
  return (values - mean) / np.sqrt(variance + _LEAST_DEVIATION) * weights


def token_values(apply: Callable, params: Any, batch: dict) -> jax.Array:
  """What the critic expects before each response token, float32 [N, R].

  Args:
    apply: of the critic's decoder.
    params: of `mlm.alignment.reward_model`.
    batch: prompt–response batch.
  """
  hidden = losses.last_columns(
    apply(params["decoder"], batch)["hidden"], batch["decoder_target_tokens"]
  )
  return hidden.astype(jnp.float32) @ params["score"]


def ppo_loss(
  apply: Callable,
  value_apply: Callable,
  *,
  settings: Settings,
  backend: str,
  num_languages: int,
) -> Callable:
  """Builds the clipped loss of policy and critic, means over response tokens.

  Args:
    apply: of the policy.
    value_apply: of the critic's decoder.
    settings: of PPO.
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The batch is that of
    `rollout_batches.make_rollout` with advantages, returns and values, float32
    [N, R].
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    weights = batch["decoder_loss_weights"]
    logprobs = losses.token_logprobs(
      apply, params["policy"], batch, backend=backend
    )
    log_ratio = (logprobs - batch["sampled_logprobs"]) * weights
    ratio = jnp.exp(log_ratio)
    advantages = batch["advantages"]
    near = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
    gain = jnp.minimum(ratio * advantages, near * advantages)
    clipped = weights * (near * advantages < ratio * advantages)

    values = token_values(value_apply, params["value"], batch)
    old = batch["values"]
    limit = settings.value_clip
    near_values = jnp.clip(values, old - limit, old + limit)
    errors = jnp.maximum(
      (values - batch["returns"]) ** 2, (near_values - batch["returns"]) ** 2
    )
    num_tokens = weights.sum()
    policy_loss = -(gain * weights).sum() / num_tokens
    value_loss = 0.5 * (errors * weights).sum() / num_tokens
    loss = policy_loss + settings.value_coefficient * value_loss
    length = batch["length"]
    metrics = losses.row_metrics(
      {
        **rollout_batches.row_values(batch),
        "log_ratio_per_token": (jnp.abs(log_ratio).sum(axis=1), length),
        "clipped": (clipped.sum(axis=1), length),
        "value_error": ((errors * weights).sum(axis=1), length),
      },
      batch["language_ids"],
      num_languages=num_languages,
    )
    one = jnp.float32(1)
    return loss, {
      "loss": (loss, one),
      "policy_loss": (policy_loss, one),
      "value_loss": (value_loss, one),
      **metrics,
    }

  return loss_fn


def make_batch_source(
  rollout: Callable,
  *,
  value_apply: Callable,
  place: Callable,
  settings: Settings,
  seed: int,
) -> Callable[[Any], dict[str, np.ndarray]]:
  """Builds the batch source: a rollout, then its minibatches for some epochs.

  Args:
    rollout: of `rollout_batches.make_rollout`.
    value_apply: of the critic's decoder.
    place: puts a dict of host arrays on the mesh, first axis split.
    settings: of PPO.
    seed: of the minibatches' order.

  Returns:
    batch_source(state) -> batch as `ppo_loss` reads it. It raises ValueError
    where minibatches do not divide the rows.
  """
  values_of = mesh_lib.jit(
    lambda params, batch: token_values(value_apply, params, batch)
  )
  current: tuple[int, dict] | None = None

  def whole(params, number):
    batch, _ = rollout(params["policy"], number)
    weights = batch["decoder_loss_weights"]
    if len(weights) % settings.num_minibatches:
      raise ValueError(
        f"{len(weights)} responses are not divisible by num_minibatches "
        f"{settings.num_minibatches}; change one"
      )
    inputs = {k: v for k, v in batch.items() if k.startswith("decoder_")}
    values = np.asarray(values_of(params["value"], place(inputs))) * weights
    rewards = token_rewards(
      batch["reward"],
      batch["sampled_logprobs"] - batch["reference_logprobs"],
      weights,
      kl_coefficient=settings.kl_coefficient,
    )
    advantages, returns = generalized_advantages(
      rewards,
      values,
      weights,
      discount=settings.discount,
      gae_lambda=settings.gae_lambda,
    )
    if settings.whiten:
      advantages = whitened(advantages, weights)
    of_tokens = {"advantages": advantages, "returns": returns, "values": values}
    return {**batch, **{k: np.float32(v) for k, v in of_tokens.items()}}

  def batch_source(state):
    nonlocal current
    number, update = divmod(int(state.step), settings.updates_per_rollout)
    if current is None or current[0] != number:
      if update:
        logging.warning(
          "resuming at update %d of a rollout of %d: its prompts are sampled "
          "again, from the present policy",
          update,
          settings.updates_per_rollout,
        )
      current = number, whole(state.params, number)
    batch = current[1]
    num_rows = len(batch["language_ids"])
    epoch, minibatch = divmod(update, settings.num_minibatches)
    size = num_rows // settings.num_minibatches
    key = schedule.mix(seed, number, epoch)
    places = [
      schedule.permuted(place, num_rows, key)
      for place in range(minibatch * size, (minibatch + 1) * size)
    ]
    return {name: values[places] for name, values in batch.items()}

  return batch_source
