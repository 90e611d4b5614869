"""Direct preference optimisation and its relatives, from one difference.

With rho = log pi(y | x) - log pi_ref(y | x), summed over the response's tokens,
EOS included, each loss is a function of rho_chosen - rho_rejected alone. The
implicit reward of a response is beta * rho.

With d that difference, l(x) = -log sigmoid(x) and e the label smoothing:

| name | method | loss |
|---|---|---|
| logistic | DPO; conservative with e > 0 | (1 - e) l(beta d) + e l(-beta d) |
| robust | robust DPO | ((1 - e) l(beta d) - e l(-beta d)) / (1 - 2 e) |
| squared | IPO | (d - 1 / (2 beta))^2, beta being its tau |
| hinge | SLiC | max(0, 1 - beta d) |

With per_token, rho is divided by the response's number of tokens: logistic is
then length-normalised DPO, and squared is IPO as its authors ran it and as TRL
does it; OpenRLHF sums. The same beta means another loss in each convention.

Letters: B pairs; rows 2i and 2i + 1 of a batch are the chosen and the rejected
response of pair i.

Sources: Rafailov et al. 2023 (DPO; conservative in Mitchell 2023), Chowdhury et
al. 2024 (robust), Azar et al. 2024 (IPO, equation 17), Zhao et al. 2023 (SLiC).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.alignment import preferences
from mlm.data import prompts
from mlm.training import losses


def _logistic(difference, beta, smoothing):
  right = jax.nn.log_sigmoid(beta * difference)
  wrong = jax.nn.log_sigmoid(-beta * difference)
  return -(1 - smoothing) * right - smoothing * wrong


def _robust(difference, beta, smoothing):
  right = jax.nn.log_sigmoid(beta * difference)
  wrong = jax.nn.log_sigmoid(-beta * difference)
  return (-(1 - smoothing) * right + smoothing * wrong) / (1 - 2 * smoothing)


def _squared(difference, beta, smoothing):
  del smoothing
  return (difference - 1 / (2 * beta)) ** 2


def _hinge(difference, beta, smoothing):
  del smoothing
  return jax.nn.relu(1 - beta * difference)


# Name -> (difference [B], beta, label_smoothing) -> loss [B].
LOSSES = {
  "logistic": _logistic,
  "robust": _robust,
  "squared": _squared,
  "hinge": _hinge,
}
_SMOOTHED = ("logistic", "robust")


@dataclasses.dataclass(frozen=True)
class Objective:
  """One of the losses of the table, and what is added to it.

  Attributes:
    loss: name in `LOSSES`.
    beta: weight of the log ratio, > 0.
    label_smoothing: share of pairs taken to be labelled the wrong way round, in
      [0, 0.5); 0 for squared and hinge.
    per_token: whether log ratios are divided by the response's tokens.
    sft_weight: of the chosen responses' mean negative log-likelihood in nats a
      token, >= 0; it keeps their likelihood from falling.
  """

  loss: str
  beta: float
  label_smoothing: float
  per_token: bool
  sft_weight: float

  def __post_init__(self):
    if self.loss not in LOSSES:
      raise ValueError(
        f"loss {self.loss!r} is none of {', '.join(LOSSES)}; choose one"
      )
    if not self.beta > 0:
      raise ValueError(f"beta {self.beta} must be above 0")
    if not 0 <= self.label_smoothing < 0.5:
      raise ValueError(
        f"label_smoothing {self.label_smoothing} must be in [0, 0.5): at a "
        "half the labels say nothing"
      )
    if self.label_smoothing and self.loss not in _SMOOTHED:
      raise ValueError(
        f"label_smoothing {self.label_smoothing} has no meaning for the loss "
        f"{self.loss}; set it to 0, or use {' or '.join(_SMOOTHED)}"
      )
    if self.sft_weight < 0:
      raise ValueError(f"sft_weight {self.sft_weight} must not be below 0")

  def of(self, difference: jax.Array) -> jax.Array:
    """Loss of differences of log ratios, float32 [B], without the SFT term."""
    of_difference = LOSSES[self.loss]
    return of_difference(difference, self.beta, self.label_smoothing)


def preference_loss(
  apply: Callable, *, objective: Objective, backend: str, num_languages: int
) -> Callable:
  """Builds the mean of an objective over pairs.

  Args:
    apply: decoder apply.
    objective: which loss.
    backend: of the linear cross-entropy kernel.
    num_languages: length of the per-language metric vectors.

  Returns:
    loss_fn(params, frozen, batch, key) -> (loss, metrics). The batch is a
    prompt–response batch of 2B rows with reference_logprobs float32 [2B], of
    `reference_logprobs`, and language_ids int32 [2B]. The metric loss is
    without the SFT term. Pairs whose two log ratios are equal, as all are at
    the first step, count for no accuracy.
  """

  def loss_fn(params, frozen, batch, key):
    del frozen, key
    logprobs = losses.sequence_logprobs(apply, params, batch, backend=backend)
    ratios = logprobs - batch["reference_logprobs"]
    lengths = batch["decoder_loss_weights"].sum(axis=1)
    if objective.per_token:
      ratios = ratios / lengths
    (chosen, rejected), (chosen_logprobs, rejected_logprobs) = (
      x.reshape(-1, 2).T for x in (ratios, logprobs)
    )
    difference = chosen - rejected
    pair_losses = objective.of(difference)
    chosen_lengths = lengths[::2]
    nll = -chosen_logprobs.sum() / chosen_lengths.sum()
    loss = jnp.mean(pair_losses) + objective.sft_weight * nll
    metrics = losses.row_metrics(
      {
        "loss": (pair_losses, 1),
        "accuracy": (difference > 0, difference != 0),
        "margin": (objective.beta * difference, 1),
        "chosen_reward": (objective.beta * chosen, 1),
        "rejected_reward": (objective.beta * rejected, 1),
        "chosen_logprob": (chosen_logprobs, 1),
        "rejected_logprob": (rejected_logprobs, 1),
        "chosen_nll": (-chosen_logprobs, chosen_lengths),
      },
      batch["language_ids"][::2],
      num_languages=num_languages,
    )
    return loss, metrics

  return loss_fn


def pair_batch(
  pairs: Sequence[Mapping],
  *,
  processor: Any,
  prompt_length: int,
  response_length: int,
) -> dict[str, np.ndarray]:
  """The prompt–response batch of pairs, 2B rows, with language_ids."""
  arrays = preferences.pair_rows(
    pairs,
    processor=processor,
    prompt_length=prompt_length,
    response_length=response_length,
  )
  rows = np.stack([arrays["chosen_rows"], arrays["rejected_rows"]], axis=1)
  language_ids = np.repeat(arrays["language_ids"], 2)
  batch = prompts.response_batch(
    rows.reshape(-1, rows.shape[-1]), language_ids, prompt_length=prompt_length
  )
  return {**batch, "language_ids": language_ids}


def reference_logprobs(
  pairs: Sequence[Mapping],
  *,
  logprobs: Callable[[dict], jax.Array],
  batch_size: int,
  lengths: Mapping[str, Any],
) -> np.ndarray:
  """Log-probabilities of every chosen and rejected response, in nats.

  Args:
    pairs: preference records.
    logprobs: host batch of `pair_batch` -> float32 [2B].
    batch_size: B; the last batch is filled with repeats.
    lengths: the other arguments of `pair_batch`.

  Returns:
    float32 [len(pairs), 2].
  """
  rows = []
  for start in range(0, len(pairs), batch_size):
    chunk = pairs[start : start + batch_size]
    filled = [chunk[i % len(chunk)] for i in range(batch_size)]
    found = np.asarray(logprobs(pair_batch(filled, **lengths)))
    rows.append(found.reshape(-1, 2)[: len(chunk)])
  return np.concatenate(rows)


def batch_source(
  pairs: Sequence[Mapping],
  reference: np.ndarray,
  *,
  batch_size: int,
  temperature: float,
  seed: int,
  lengths: Mapping[str, Any],
) -> Callable[[int], dict[str, np.ndarray]]:
  """Builds step -> batch of `preference_loss`, languages drawn by temperature.

  Args:
    pairs: preference records.
    reference: float32 [len(pairs), 2] of `reference_logprobs`.
    batch_size: B.
    temperature: T of p ∝ n^(1/T) over pairs.
    seed: with the step, all that a batch depends on.
    lengths: the other arguments of `pair_batch`.
  """
  draw = prompts.record_drawer(
    [
      {**pair, "reference": of_pair}
      for pair, of_pair in zip(pairs, reference, strict=True)
    ],
    batch_size=batch_size,
    temperature=temperature,
    seed=seed,
  )

  def batch(step):
    drawn = draw(step)
    return {
      **pair_batch(drawn, **lengths),
      "reference_logprobs": np.concatenate([p["reference"] for p in drawn]),
    }

  return batch
