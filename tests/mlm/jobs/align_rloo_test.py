"""RLOO on a DPO policy's implicit reward."""

import json

import numpy as np
import pytest

from mlm.alignment import estimators, rewards
from mlm.instructions import records
from mlm.jobs import align_rloo, models, rollout_jobs
from mlm.tokenizers import load
from mlm.training import metrics as metrics_lib
from mlm.training import optimizers, schedules

WEIGHTS = {**dict.fromkeys(rewards.PARTS, 1.0), "implicit": 0.5}


def _settings(aligned, tmp_path, **changes):
  folder = tmp_path / "records"
  folder.mkdir(exist_ok=True)
  records.write_records(
    folder / "train.jsonl", records.read_records(aligned.prompts)
  )
  settings = {
    "tokenizer": aligned.tokenizer,
    "initial": aligned.base,
    "reward_model_dir": aligned.dpo,
    "dpo_reference": aligned.base,
    "records": str(folder),
    "tasks": ["continue"],
    "mesh_shape": aligned.mesh,
    "prompts_per_step": 8,
    "samples_per_prompt": 2,
    "prompts_at_once": None,
    "prompt_lengths": (aligned.lengths["prompt_length"],),
    "response_length": aligned.lengths["response_length"],
    "sampling_temperature": 1.0,
    "language_temperature": 1.0,
    "reward_weights": WEIGHTS,
    "standardize_by_language": False,
    "chance_gate": "warn",
    "adapters": None,
    "reference_dtype": "float32",
    "max_logprob_gap": 1e-3,
    "samples_period": 1,
    "seed": 3,
  }
  return rollout_jobs.Settings(**{**settings, **changes})


def _align(settings, output, num_steps):
  align_rloo.align_rloo(
    rollouts=settings,
    output=str(output),
    optimizer=optimizers.adamw(
      learning_rate=schedules.constant_with_warmup(peak=1e-2, warmup_steps=1),
      beta1=0.9,
      beta2=0.95,
      epsilon=1e-8,
      weight_decay=0.0,
      max_grad_norm=1.0,
    ),
    updates_per_rollout=1,
    estimator=estimators.paper(kl_coefficient=0.1),
    stop_rule=None,
    num_steps=num_steps,
    checkpoint_period=1,
    log_period=1,
  )
  return metrics_lib.read(output / "samples.jsonl")


def test_a_resumed_run_repeats_no_sample_and_says_what_it_is(aligned, tmp_path):
  settings = _settings(aligned, tmp_path)
  _align(settings, tmp_path, 1)
  lines = _align(settings, tmp_path, 2)
  told = [(line["step"], line["language"]) for line in lines]
  assert len(set(told)) == len(told) and {step for step, _ in told} == {0, 1}
  assert set(lines[0]["responses"][0]["parts"]) == set(WEIGHTS)
  metrics = metrics_lib.read(tmp_path / "metrics.jsonl")[-1]
  vocabulary = load.load(aligned.tokenizer).vocab_size()
  assert 0 < metrics["entropy_per_token"] <= np.log(vocabulary) + 1e-3
  assert set(metrics["reward_implicit_by_language"]) <= set(aligned.languages)
  gate = json.loads((tmp_path / "gate.json").read_text())
  assert gate["part"] == "implicit"
  assert set(gate["at_chance"]) == set(aligned.languages)


def _log_softmax_sum(output, aligned, mesh, batch):
  """Summed log-probabilities of responses, from whole logits."""
  _, model, params = models.open_decoder(
    output,
    mesh=mesh,
    tokenizer_sha256=load.read_card(aligned.tokenizer)["model_sha256"],
  )
  inputs = {k: v for k, v in batch.items() if k.startswith("decoder_")}
  outputs = model.apply(params, inputs)
  logits = np.float64(outputs["hidden"]) @ np.float64(outputs["unembedding"])
  logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  targets = batch["decoder_target_tokens"]
  logprobs = logprobs[:, -targets.shape[1] :]
  of_targets = np.take_along_axis(logprobs, targets[..., None], axis=-1)
  return (of_targets[..., 0] * batch["decoder_loss_weights"]).sum(axis=1)


def test_the_reward_is_the_log_ratio_computed_directly(aligned, tmp_path):
  setup = rollout_jobs.open_rollouts(
    _settings(aligned, tmp_path), steps_per_rollout=1, output=str(tmp_path)
  )
  batch, _ = setup.rollout(setup.part.params, 0)
  dpo, base = (
    _log_softmax_sum(output, aligned, setup.mesh, batch)
    for output in (aligned.dpo, aligned.base)
  )
  np.testing.assert_allclose(
    batch["reward_implicit"], 0.5 * (dpo - base), atol=1e-4
  )
  parts = [batch[f"reward_{name}"] for name in rewards.PARTS]
  np.testing.assert_allclose(
    batch["reward"], sum(parts) + 0.25 * (dpo - base), atol=1e-4
  )


def test_rewards_that_do_not_fit_are_refused(aligned, tmp_path):
  def opened(**changes):
    settings = _settings(aligned, tmp_path, **changes)
    rollout_jobs.open_rollouts(
      settings, steps_per_rollout=1, output=str(tmp_path)
    )

  with pytest.raises(ValueError, match="another fingerprint"):
    opened(dpo_reference=aligned.rloo)
  with pytest.raises(ValueError, match="give that as DPO_REFERENCE"):
    opened(dpo_reference="")
  with pytest.raises(ValueError, match="eng_Latn: no held-out pairs"):
    opened(chance_gate="refuse")
  with pytest.raises(ValueError, match="no calibration to standardize"):
    opened(standardize_by_language=True)
  by_model = {**dict.fromkeys(rewards.PARTS, 1.0), "reward_model": 0.5}
  with pytest.raises(ValueError, match="gives the part 'implicit'"):
    opened(reward_weights=by_model)
  with pytest.raises(ValueError, match="one of reward_model, implicit"):
    opened(reward_weights={**by_model, "implicit": 1.0})
