"""One seed of an experiment: fine-tuning, pairs, reward models, every trial.

No trainer sees the hidden score: pairs are noisy choices by it, the reward
model learns from the pairs, and the score then judges samples on prompts of the
validation split, by which learning rates are chosen, and of the test split.

Letters: L languages, B prompts of meanings, K samples a prompt.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mlm.alignment import best_of_n, calibration, rewards, stop_rules
from mlm.alignment.testbed import annotators
from mlm.alignment.testbed.settings import Mixture, Settings, Transfer, Trial
from mlm.alignment.testbed.stages import Stages
from mlm.alignment.testbed.tasks import Task

SPLITS = ("validation", "test")
# What each random draw of a seed is for.
_POOL, _LABELS, _HELD_OUT, _PAIRS, _OPPONENT, _POLICY, _CHOICES = range(7)
_CLEAN_DIFFERENCE = 0.1  # scores closer than this are no test of a reward model


def run_seed(
  seed: int,
  *,
  task: Task,
  stages: Stages,
  settings: Settings,
  output: str,
  tell: Callable[[str], None],
) -> tuple[dict, dict[str, np.ndarray]]:
  """Runs every trial of one seed.

  Args:
    seed: of everything.
    task: prompts and judges.
    stages: of `mlm.alignment.testbed.stages.make_stages`.
    settings: of the experiment.
    output: directory for what the training loop writes, by stage.
    tell: called with a line after each stage.

  Returns:
    (summary, scores). The summary has languages, and for each mixture its
    languages, pairs, calibration on held-out noisy pairs, accuracy by language
    against the hidden score, what the gate says, the best-of-n curve on the
    test split, and for each trial its settings, KL on the test split by
    language in nats, and what stopped it, if anything. The scores are hidden
    scores of samples, float32 [L, B, K], by "<split>/<trial>", with
    "<split>/opponent" and "<split>/control" of the fine-tuned model, and what
    `_transfer` returns.
  """
  reference = stages.finetune(seed, os.path.join(output, "sft"))
  prompts = {
    split: task.prompts(
      split,
      np.random.default_rng((seed, number)),
      settings.evaluation_prompts,
    )
    for number, split in enumerate(SPLITS)
  }
  scores: dict[str, np.ndarray] = {}

  def judged(params, split, num_samples, purpose):
    responses = _sample_all(
      stages, params, prompts[split], num_samples, seed, purpose
    )
    return responses, _gold_all(task, prompts[split], responses)

  num_opponents = settings.opponent_samples + settings.control_samples
  drawn = {}
  for split in SPLITS:
    responses, found = judged(reference, split, num_opponents, _OPPONENT)
    drawn[split] = responses, found
    opponent, control = np.split(found, [settings.opponent_samples], axis=2)
    scores[f"{split}/opponent"], scores[f"{split}/control"] = opponent, control
  tell(f"fine-tuned: hidden score {scores['test/opponent'].mean():.3f}")

  def learned(mixture, number, folder):
    return _reward_model(
      reference,
      mixture,
      seed=seed,
      number=number,
      task=task,
      stages=stages,
      settings=settings,
      output=os.path.join(output, folder),
    )

  summary: dict[str, Any] = {
    "seed": seed,
    "languages": list(task.languages),
    "mixtures": {},
  }
  for number, (mixture, of_mixture) in enumerate(settings.mixtures.items()):
    codes = of_mixture.languages
    pairs, reward_params = learned(
      of_mixture, number, os.path.join(mixture, "reward_model")
    )
    found = _worth(
      reward_params,
      pairs,
      of_mixture,
      held_out=(prompts["validation"], drawn["validation"][0]),
      test=(prompts["test"], *drawn["test"]),
      seed=seed,
      number=number,
      task=task,
      stages=stages,
      settings=settings,
    )
    summary["mixtures"][mixture] = {"languages": list(codes), **found}
    standard = found["calibration"]["together"]
    told = calibration.at_chance(found["calibration"], codes)
    summary["mixtures"][mixture]["gate"] = told
    accuracy = found["clean_accuracy"]
    tell(f"{mixture}: {len(pairs.prompts)} pairs, accuracy {accuracy}")
    rows = summary["mixtures"][mixture]["trials"] = {}
    for trial in settings.trials(mixture):
      row = rows[trial.name] = {
        "method": trial.method,
        "rate": trial.rate,
        "beta": trial.beta,
        "varies": "rate" if trial in settings.rate_trials(mixture) else "beta",
      }
      needs_gate = (trial.method, of_mixture.rloo_reward) == (
        "rloo",
        "learned",
      )
      if needs_gate and told and settings.chance_gate == "refuse":
        row["refused"] = told
        tell(f"{trial.name}: refused by the gate: {told}")
        continue
      params, stopped = _align(
        trial,
        reference,
        pairs,
        reward_params,
        standard,
        seed=seed,
        task=task,
        stages=stages,
        settings=settings,
        output=os.path.join(output, mixture, trial.name),
      )
      row["stop_rule"] = stopped
      for split in SPLITS:
        responses, of_split = judged(
          params, split, settings.evaluation_samples, _POLICY
        )
        scores[f"{split}/{trial.name}"] = of_split
      flat = _rows(prompts["test"], responses)
      for name, found in (
        ("kl", stages.logprob_ratio(params, reference, *flat)),
        ("reward", stages.reward(reward_params, *flat)),
      ):
        means = found.reshape(len(task.languages), -1).mean(axis=1)
        row[name] = dict(zip(task.languages, means.tolist()))
      tell(
        f"{trial.name}: hidden score {of_split.mean():.3f}, KL "
        f"{np.mean(list(row['kl'].values())):.2f}, learned reward "
        f"{np.mean(list(row['reward'].values())):.2f}"
        + "".join(f"; at step {s['step']}: {s['told']}" for s in stopped[:1])
      )
  if settings.transfer:
    scores |= _transfer(
      settings.transfer,
      reference,
      prompts["test"],
      learned,
      seed=seed,
      task=task,
      stages=stages,
      number=len(settings.mixtures),
    )
    tell("rewards of each language for samples in the others")
  return summary, scores


def _transfer(
  transfer: Transfer, reference, prompts, learned, *, seed, task, stages, number
):
  """Hidden scores of n + K samples, and each source's rewards of the first n.

  Returns:
    {"transfer/gold": float32 [T, B, n + K], "transfer/<source>": float32 [T, B,
    n]}; T targets in the order of `transfer.languages`, K opponents.
  """
  targets = [task.languages.index(code) for code in transfer.languages]
  prompts = prompts[targets]
  responses = _sample_all(
    stages,
    reference,
    prompts,
    transfer.num_samples + transfer.num_opponents,
    seed,
    _CHOICES,
  )
  found = {"transfer/gold": _gold_all(task, prompts, responses)}
  choices = responses[:, :, : transfer.num_samples]
  for i, code in enumerate(transfer.languages):
    source = Mixture(
      [code], transfer.annotator, transfer.label_scale, "learned"
    )
    _, params = learned(source, number + i, os.path.join("transfer", code))
    rewards_of = stages.reward(params, *_rows(prompts, choices))
    found[f"transfer/{code}"] = rewards_of.reshape(choices.shape[:3])
  return found


def _rows(prompts, responses):
  """[L, B, P] and [L, B, K, R] as rows, [L * B * K, ...] each."""
  num_samples = responses.shape[2]
  return (
    np.repeat(prompts.reshape(-1, prompts.shape[-1]), num_samples, axis=0),
    responses.reshape(-1, responses.shape[-1]),
  )


def _sample_all(stages, params, prompts, num_samples, seed, purpose):
  """int32 [L, B, K, R] for prompts [L, B, P]."""
  num_languages, number, _ = prompts.shape
  flat = prompts.reshape(num_languages * number, -1)
  found = stages.sample(params, flat, num_samples, seed, purpose)
  return found.reshape(num_languages, number, num_samples, -1)


def _gold_all(task, prompts, responses):
  """float32 [L, B, K]."""
  return task.gold(*_rows(prompts, responses)).reshape(responses.shape[:3])


def _reward_model(
  reference, mixture, *, seed, number, task, stages, settings, output
):
  """Pairs of a mixture, and the reward model on them."""
  # The same meanings in every mixture, in turn in each of its languages.
  meanings = task.prompts(
    "train", np.random.default_rng((seed, _POOL)), settings.pool_prompts
  )
  index = np.arange(settings.pool_prompts)
  language_ids = [task.languages.index(code) for code in mixture.languages]
  ids = np.array(language_ids, np.int32)[index % len(language_ids)]
  pool = meanings[ids, index]
  responses = stages.sample(reference, pool, 2, seed, _PAIRS)
  pairs = _labelled(
    task, mixture, pool, responses, ids, (seed, number, _LABELS)
  )
  return pairs, stages.train_reward_model(reference, pairs, seed, output)


def _labelled(task, mixture, prompts, responses, ids, seed):
  return annotators.annotate(
    task,
    mixture.annotator,
    prompts=prompts,
    responses=responses,
    language_ids=ids,
    scale=mixture.label_scale,
    rng=np.random.default_rng(seed),
  )


def _worth(
  params,
  pairs,
  mixture,
  *,
  held_out,
  test,
  seed,
  number,
  task,
  stages,
  settings,
):
  """What a reward model is worth, for the summary."""
  prompts, responses = held_out
  num_languages, num_prompts, _ = prompts.shape
  kept_back = _labelled(
    task,
    mixture,
    prompts.reshape(num_languages * num_prompts, -1),
    responses[:, :, :2].reshape(num_languages * num_prompts, 2, -1),
    np.repeat(np.arange(num_languages, dtype=np.int32), num_prompts),
    (seed, number, _HELD_OUT),
  )
  shortcuts = calibration.fit_shortcuts(
    pairs.chosen, pairs.rejected, vocab_size=task.vocab_size
  )
  found = calibration.summarize(
    languages=[task.languages[i] for i in kept_back.language_ids],
    chosen=stages.reward(params, kept_back.prompts, kept_back.chosen),
    rejected=stages.reward(params, kept_back.prompts, kept_back.rejected),
    shortcuts=shortcuts(kept_back.chosen, kept_back.rejected),
    confidence=settings.confidence,
  )
  prompts, responses, scores = test
  proxy = stages.reward(params, *_rows(prompts, responses))
  proxy = proxy.reshape(scores.shape)
  return {
    "pairs": len(pairs.prompts),
    "calibration": found,
    "clean_accuracy": {
      code: clean_accuracy(proxy[i], scores[i])
      for i, code in enumerate(task.languages)
    },
    "best_of_n": best_of_n.curve(
      {code: (proxy[i], scores[i]) for i, code in enumerate(task.languages)}
    ),
  }


def clean_accuracy(proxy: np.ndarray, scores: np.ndarray) -> float | None:
  """Share of pairs of samples that the reward orders as the hidden score.

  Args:
    proxy: float [B, K]; samples 0 and 1, 2 and 3, ... make pairs.
    scores: float [B, K], the hidden score.

  Returns:
    The share among pairs whose scores differ by more than 0.1; None without.
  """
  differences = []
  for values in (proxy, scores):
    even = values[:, : values.shape[1] // 2 * 2]
    differences.append(even[:, ::2] - even[:, 1::2])
  differs = np.abs(differences[1]) > _CLEAN_DIFFERENCE
  if not differs.any():
    return None
  agrees = (differences[0] > 0) == (differences[1] > 0)
  return round(float(agrees[differs].mean()), 4)


def _align(
  trial: Trial,
  reference,
  pairs,
  reward_params,
  standard,
  *,
  seed,
  task,
  stages,
  settings,
  output,
):
  """(params, what the stop rule said and when)."""
  if trial.method == "dpo":
    params = stages.align_dpo(
      reference, pairs, trial.rate, trial.beta, seed, output
    )
    return params, []

  def score(prompts, responses):
    if settings.mixtures[trial.mixture].rloo_reward == "gold":
      reward = task.gold(prompts, responses)
    else:
      raw = stages.reward(reward_params, prompts, responses)
      reward = (raw - standard["mean"]) / standard["std"]
    return {"reward": reward, **task.verify(prompts, responses)}

  said = []

  def on_told(step, told, state):
    said.append({"step": step, "told": told})
    if settings.on_hacking == "stop":
      stop_rules.stop(step, told, state)

  def watch(source):
    return stop_rules.watched(
      source,
      rule=settings.stop_rule,
      verified=rewards.PARTS,
      proxy="reward",
      codes=task.languages,
      num_steps=settings.rloo_steps,
      num_languages=len(set(pairs.language_ids.tolist())),
      samples_per_prompt=settings.samples_per_prompt,
      output=output,
      on_told=on_told,
    )

  try:
    params = stages.align_rloo(
      reference,
      pairs.prompts,
      pairs.language_ids,
      score,
      trial.rate,
      trial.beta,
      watch,
      seed,
      output,
    )
  except stop_rules.Stopped as stopped:
    params = stopped.state.params
  return params, said
