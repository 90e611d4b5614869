"""The numbers of an experiment."""

import dataclasses
from collections.abc import Mapping, Sequence

from mlm.alignment import stop_rules
from mlm.alignment.testbed import annotators

GATES = ("refuse", "record")
STOPS = ("stop", "record")
METHODS = ("dpo", "rloo")
REWARDS = ("learned", "gold")


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What the pairs of a mixture are, and what RLOO is rewarded with there.

  Attributes:
    languages: codes of its prompts, in turn.
    annotator: of `mlm.alignment.testbed.annotators`.
    label_scale: of `annotators.annotate`.
    rloo_reward: "learned", or "gold" to see what RLOO does with a reward that
      cannot be hacked; DPO has its pairs as ever.
  """

  languages: Sequence[str]
  annotator: annotators.Annotator
  label_scale: float
  rloo_reward: str

  def __post_init__(self):
    if self.rloo_reward not in REWARDS:
      raise ValueError(
        f"rloo_reward {self.rloo_reward!r} must be {' or '.join(REWARDS)}"
      )


@dataclasses.dataclass(frozen=True)
class Trial:
  """One aligned policy.

  Attributes:
    mixture: name in `Settings.mixtures`.
    method: of `METHODS`.
    rate: peak learning rate.
    beta: of the method: DPO's, or RLOO's KL coefficient.
  """

  mixture: str
  method: str
  rate: float
  beta: float

  @property
  def name(self) -> str:
    return f"{self.mixture}.{self.method}.{self.rate:g}.{self.beta:g}"


@dataclasses.dataclass(frozen=True)
class Transfer:
  """A grid of reward models by the languages whose samples they choose among.

  Attributes:
    languages: codes; each is a source, with a reward model of as many pairs as
      a mixture has, in it alone, and a target.
    annotator: of `Mixture`.
    label_scale: of `Mixture`.
    num_samples: of the fine-tuned model for each prompt of the test split, that
      a reward model chooses among.
    num_opponents: more of them, that the choice is compared with.
  """

  languages: Sequence[str]
  annotator: annotators.Annotator
  label_scale: float
  num_samples: int
  num_opponents: int


@dataclasses.dataclass(frozen=True)
class Settings:
  """An experiment, the same for every seed.

  DPO and RLOO see the same prompts, and with dpo_steps * pairs_per_step * 2 =
  rloo_steps * prompts_per_step * samples_per_prompt, the same number of
  responses in their updates.

  Attributes:
    mixtures: by name; all have as many prompts.
    sft_steps: of fine-tuning.
    sft_batch: demonstrations a step.
    sft_rate: peak learning rate.
    pool_prompts: prompts that pairs are made for, and RLOO's; spread evenly
      over a mixture's languages.
    reward_steps: of the reward model.
    reward_rate: its peak learning rate.
    reward_centering: of `reward_model.bradley_terry_loss`.
    reward_pairs_per_step: of the reward model.
    pairs_per_step: of DPO.
    dpo_steps: updates.
    dpo_rates: peak learning rates tried with every mixture.
    dpo_beta: with them.
    rloo_steps: updates.
    rloo_rates: as for DPO, and as many.
    rloo_beta: with them.
    prompts_per_step: of RLOO.
    samples_per_prompt: of RLOO, at least 2.
    frontier_mixture: the one in which beta is varied; None for none.
    frontier_rate: learning rate then, of both methods.
    dpo_betas: tried then; dpo_beta belongs to them.
    rloo_betas: tried then; rloo_beta belongs to them.
    transfer: of rewards between languages; None for none.
    evaluation_prompts: of the validation and of the test split, each in every
      language.
    evaluation_samples: of a policy for each of them.
    opponent_samples: of the fine-tuned model: what policies are compared with.
    control_samples: more of them, compared like a policy: must come out even.
    confidence: of the gate's intervals.
    chance_gate: "refuse": no RLOO trial on a reward model at chance in a
      language of its mixture; "record": all trials, and what it would say.
    stop_rule: of `mlm.alignment.stop_rules`.
    on_hacking: "stop" or "record", when the rule says so.
    rows_at_once: of sampling and scoring.
  """

  mixtures: Mapping[str, Mixture]
  sft_steps: int
  sft_batch: int
  sft_rate: float
  pool_prompts: int
  reward_steps: int
  reward_rate: float
  reward_centering: float
  reward_pairs_per_step: int
  pairs_per_step: int
  dpo_steps: int
  dpo_rates: Sequence[float]
  dpo_beta: float
  rloo_steps: int
  rloo_rates: Sequence[float]
  rloo_beta: float
  prompts_per_step: int
  samples_per_prompt: int
  frontier_mixture: str | None
  frontier_rate: float
  dpo_betas: Sequence[float]
  rloo_betas: Sequence[float]
  transfer: Transfer | None
  evaluation_prompts: int
  evaluation_samples: int
  opponent_samples: int
  control_samples: int
  confidence: float
  chance_gate: str
  stop_rule: stop_rules.Rule
  on_hacking: str
  rows_at_once: int

  def __post_init__(self):
    for name, choices in (
      ("chance_gate", GATES),
      ("on_hacking", STOPS),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
          f"{name} {getattr(self, name)!r} must be {' or '.join(choices)}"
        )
    if len(self.dpo_rates) != len(self.rloo_rates):
      raise ValueError(
        f"{len(self.dpo_rates)} rates of DPO and {len(self.rloo_rates)} of "
        "RLOO: a fair comparison gives both as many trials"
      )
    of_dpo = 2 * self.dpo_steps * self.pairs_per_step
    of_rloo = self.rloo_steps * self.prompts_per_step * self.samples_per_prompt
    if of_dpo != of_rloo:
      raise ValueError(
        f"DPO would learn from {of_dpo} responses and RLOO from {of_rloo}; make "
        "2 * DPO_STEPS * PAIRS_PER_STEP equal to RLOO_STEPS * PROMPTS_PER_STEP "
        "* SAMPLES_PER_PROMPT"
      )
    if self.frontier_mixture not in (None, *self.mixtures):
      raise ValueError(
        f"frontier_mixture {self.frontier_mixture!r} is none of "
        f"{', '.join(self.mixtures)}"
      )

  def rate_trials(self, mixture: str) -> list[Trial]:
    """Both methods at each of their rates."""
    return [
      Trial(mixture, method, rate, beta)
      for method, rates, beta in (
        ("dpo", self.dpo_rates, self.dpo_beta),
        ("rloo", self.rloo_rates, self.rloo_beta),
      )
      for rate in rates
    ]

  def frontier_trials(self, mixture: str) -> list[Trial]:
    """Both methods at each of their betas, if it is this mixture's turn."""
    if mixture != self.frontier_mixture:
      return []
    return [
      Trial(mixture, method, self.frontier_rate, beta)
      for method, betas in (("dpo", self.dpo_betas), ("rloo", self.rloo_betas))
      for beta in betas
    ]

  def trials(self, mixture: str) -> list[Trial]:
    """All trials of a mixture, each once."""
    found = self.rate_trials(mixture) + self.frontier_trials(mixture)
    return list(dict.fromkeys(found))
