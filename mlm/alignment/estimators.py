"""Policy gradients from sampled responses: what libraries do differently.

"RLOO" names several algorithms. `Estimator` has a field for each thing in which
they differ, and the gin files of gin/alignment give the values of the paper and
of four libraries. All take the gradient of a surrogate: an average over tokens
or responses of the advantage times a log-probability or a probability ratio.

Letters: B prompts, K samples a prompt, N = B * K rows, R response columns.

Sources: Williams 1992 (REINFORCE); Kool et al. 2019 and Ahmadian et al. 2024
(RLOO); Schulman et al. 2017 (clipping); Schulman 2020, "Approximating KL
divergence" (k1, k2, k3).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

# Log ratio rho = log pi - log pi_ref of what pi sampled -> an estimate of
# KL(pi, pi_ref). The mean of k1 and of k3 is the KL. That of k2 is not, but its
# gradient is: in the loss k1 has no expected gradient at all, k3 a biased one.
KL_ESTIMATORS = {
  "k1": lambda rho: rho,
  "k2": lambda rho: rho**2 / 2,
  "k3": lambda rho: jnp.expm1(-rho) + rho,
}
_CHOICES = {
  "baseline": ("siblings", "moving_average", "none"),
  "advantage_scale": ("none", "batch"),
  "kl_in": ("reward", "token_reward", "loss"),
  "kl_estimator": tuple(KL_ESTIMATORS),
  "ratio": ("none", "sequence", "token"),
  "average": ("sequences", "tokens", "token_means"),
}


@dataclasses.dataclass(frozen=True)
class Estimator:
  """A policy gradient by what it is made of.

  Attributes:
    baseline: subtracted from a response's reward: the mean of its "siblings",
      the "moving_average" of all earlier rewards, or "none".
    advantage_scale: "batch" subtracts the mean over the rollout and divides by
      its standard deviation; "none".
    kl_in: where beta times the KL goes: "reward", summed over the response and
      before the baseline; "token_reward", after the baseline, each token being
      charged for itself and those that follow; or "loss", differentiated.
    kl_estimator: of a token's KL, name in `KL_ESTIMATORS`.
    kl_coefficient: beta, >= 0.
    ratio: of the policy to the one that sampled: "none" (REINFORCE), of the
      "sequence", or of each "token".
    clip: largest |ratio - 1| from which there is gradient (PPO), > 0; None not
      to clip.
    average: over "sequences", a response being the sum of its tokens; over all
      "tokens" of the batch; or over sequences of their "token_means", in which
      a long response's tokens weigh less.
  """

  baseline: str
  advantage_scale: str
  kl_in: str
  kl_estimator: str
  kl_coefficient: float
  ratio: str
  clip: float | None
  average: str

  def __post_init__(self):
    for name, choices in _CHOICES.items():
      if getattr(self, name) not in choices:
        raise ValueError(
          f"{name} {getattr(self, name)!r} is none of {', '.join(choices)}; "
          "choose one"
        )
    if self.kl_coefficient < 0:
      raise ValueError(
        f"kl_coefficient {self.kl_coefficient} must not be below 0"
      )
    if self.clip is not None and (self.ratio == "none" or not self.clip > 0):
      raise ValueError(
        f"clip {self.clip} with ratio {self.ratio!r}: it must be above 0 and "
        "there must be a ratio to clip; set clip to None, or choose a ratio"
      )
    if self.ratio == "sequence" and self.average != "sequences":
      raise ValueError(
        f"average {self.average!r} is over tokens, which a ratio of sequences "
        "does not have; use 'sequences', or the ratio 'token'"
      )
    if self.ratio == "sequence" and self.kl_in == "token_reward":
      raise ValueError(
        "kl_in 'token_reward' gives tokens advantages of their own, which a "
        "ratio of sequences cannot weigh; use 'reward', or the ratio 'token'"
      )


def paper(*, kl_coefficient: float) -> Estimator:
  """RLOO as published, which gin/alignment/rloo.gin has too.

  Source: Ahmadian et al. 2024, section 2.3.
  """
  return Estimator(
    baseline="siblings",
    advantage_scale="none",
    kl_in="reward",
    kl_estimator="k1",
    kl_coefficient=kl_coefficient,
    ratio="none",
    clip=None,
    average="sequences",
  )


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


def token_kl(estimator: Estimator, logprobs, reference, weights):
  """Estimated KL of each response token, [N, R]; 0 elsewhere.

  Args:
    estimator: which of the three.
    logprobs: float [N, R] of the tokens under the policy.
    reference: float [N, R] under the reference.
    weights: [N, R], 1 on response tokens.
  """
  of_ratio = KL_ESTIMATORS[estimator.kl_estimator]
  return of_ratio((logprobs - reference) * weights) * weights


def advantages(
  estimator: Estimator,
  rewards: np.ndarray,
  kl: np.ndarray,
  *,
  earlier: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Advantages of responses, and the rewards that they come from.

  Args:
    estimator: what is subtracted and divided by.
    rewards: float [B, K].
    kl: float [B, K], estimated and summed over the response.
    earlier: mean shaped reward of each rollout before this one, which a moving
      average is taken over; the average of none is 0.

  Returns:
    (advantages, rewards after what goes into them), float [B, K] each.
  """
  shaped = rewards
  if estimator.kl_in == "reward":
    shaped = rewards - estimator.kl_coefficient * kl
  if estimator.baseline == "siblings":
    found = leave_one_out_advantages(shaped)
  elif estimator.baseline == "moving_average":
    found = shaped - (np.mean(earlier) if len(earlier) else 0.0)
  else:
    found = shaped
  if estimator.advantage_scale == "batch":
    # 1e-4 and the unbiased deviation as TRL has them.
    found = (found - found.mean()) / (found.std(ddof=1) + 1e-4)
  return found, shaped


def surrogate(
  estimator: Estimator,
  logprobs: jax.Array,
  *,
  sampled: jax.Array,
  reference: jax.Array,
  advantages: jax.Array,
  weights: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The loss whose gradient is the estimator's.

  Args:
    estimator: of the settings.
    logprobs: float32 [N, R] of the tokens under the policy being trained.
    sampled: the same under the policy that sampled, by the same forward as in
      training: what a decoder with a cache gives differs by rounding, which a
      sum over a response makes large.
    reference: the same under the frozen reference.
    advantages: float32 [N].
    weights: float32 [N, R], 1 on response tokens.

  Returns:
    (loss, and float32 [N, R] or [N, 1]: 1 where the clip takes the gradient
    away, and what to count them by).
  """
  advantage = advantages[:, None]
  if estimator.kl_in == "token_reward":
    kl = token_kl(estimator, sampled, reference, weights)
    to_come = jnp.cumsum(kl[:, ::-1], axis=1)[:, ::-1]
    advantage = advantage - estimator.kl_coefficient * to_come
  counted = weights
  clipped = jnp.zeros_like(weights)
  if estimator.ratio == "none":
    gain = logprobs * advantage
  else:
    log_ratio = (logprobs - sampled) * weights
    if estimator.ratio == "sequence":
      log_ratio = log_ratio.sum(axis=1, keepdims=True)
      counted = jnp.ones_like(log_ratio)
    ratio = jnp.exp(log_ratio)
    gain = ratio * advantage
    if estimator.clip is not None:
      near = jnp.clip(ratio, 1 - estimator.clip, 1 + estimator.clip)
      clipped = counted * (near * advantage < gain)
      gain = jnp.minimum(gain, near * advantage)
  if estimator.kl_in == "loss":
    kl = token_kl(estimator, logprobs, reference, weights)
    if estimator.ratio == "sequence":
      kl = kl.sum(axis=1, keepdims=True)
    gain = gain - estimator.kl_coefficient * kl
  gain = gain * counted
  if estimator.average == "tokens":
    loss = -gain.sum() / counted.sum()
  elif estimator.average == "token_means":
    # A sampled padding token alone is a response of no tokens.
    loss = -jnp.mean(gain.sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1))
  else:
    loss = -jnp.mean(gain.sum(axis=1))
  return loss, clipped, counted
