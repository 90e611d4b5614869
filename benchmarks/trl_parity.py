"""Golden losses and gradients of TRL's trainers, for tests of ours against theirs.

    pip install trl   # in an environment of its own
    python -P benchmarks/trl_parity.py --output=tests/testdata/trl_losses.json

-P, since names of files here are names of packages there. The loss is computed by each
trainer's own method, in float32 on a CPU; for RLOO its own method makes the advantages
too, from responses and rewards given here. Weights are not stored: each is drawn by a
generator seeded by its name, here and in the tests. Nothing of this project is imported
but the benchmark that has those generators.
"""

import argparse
import importlib.util
import json
import pathlib
import tempfile

import numpy as np

_FILE = pathlib.Path(__file__).with_name("hugging_face_parity.py")
_SPEC = importlib.util.spec_from_file_location("hugging_face_parity", _FILE)
parity = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(parity)

CONFIG = parity.CONFIGS["llama3"]
PAD, EOS = 0, 1
PROMPT_LENGTH, RESPONSE_LENGTH = 5, 7
NUM_PAIRS, NUM_PROMPTS, NUM_SAMPLES = 3, 2, 3
BETA, SMOOTHING, SFT_WEIGHT = 0.1, 0.2, 0.5
MARGINS = (0.0, 0.5, 1.0)
CENTERING = 0.01
REWARDS = (0.3, -0.2, 1.1, 0.0, 0.6, -0.7)
KL_COEFFICIENT, CLIP = 0.05, 0.2
# Case -> TRL's loss types, and their weights.
DPO_CASES = {
  "logistic": (["sigmoid"], [1.0]),
  "robust": (["robust"], [1.0]),
  "squared_per_token": (["ipo"], [1.0]),
  "hinge": (["hinge"], [1.0]),
  "logistic_per_token": (["sigmoid_norm"], [1.0]),
  "logistic_and_sft": (["sigmoid", "sft"], [1.0, SFT_WEIGHT]),
}
# Case -> share of other weights in the policy that sampled, normalised or not.
RLOO_CASES = {
  "rloo_first_update": (0.0, False),
  "rloo_later_update": (0.02, False),
  "rloo_normalized": (0.02, True),
}


def weights(name: str, shape: tuple[int, ...], other: float) -> np.ndarray:
  """Float32 values of a tensor, `other` of the way to a second drawing."""
  first, second = (
    parity.weights(prefix + name, shape) for prefix in ("", "other/")
  )
  return np.float32((1 - other) * first + other * second)


REFERENCE = 0.15  # how far the reference is from the policy


def rows(num_rows: int, seed: int) -> np.ndarray:
  """Int32 [num_rows, 5 + 7]: left-padded prompts, responses with EOS, padding.

  Prompts are repeated for two or three rows; one response is cut before EOS.
  """
  generator = np.random.RandomState(seed)
  repeats = NUM_SAMPLES if num_rows == NUM_PROMPTS * NUM_SAMPLES else 2
  found = np.full((num_rows, PROMPT_LENGTH + RESPONSE_LENGTH), PAD, np.int32)
  for first in range(0, num_rows, repeats):
    length = generator.randint(2, PROMPT_LENGTH + 1)
    prompt = generator.randint(2, 64, length)
    for row in found[first : first + repeats]:
      row[PROMPT_LENGTH - length : PROMPT_LENGTH] = prompt
      length_of = generator.randint(1, RESPONSE_LENGTH)
      stop = PROMPT_LENGTH + length_of
      row[PROMPT_LENGTH:stop] = generator.randint(2, 64, length_of)
      row[stop] = EOS
  found[-1, PROMPT_LENGTH:] = generator.randint(2, 64, RESPONSE_LENGTH)
  return found


def pair_rows() -> np.ndarray:
  """Rows of pairs: 2i the chosen, 2i + 1 the rejected response of pair i."""
  return rows(2 * NUM_PAIRS, seed=0)


def sample_rows() -> np.ndarray:
  """Rows of samples, those of a prompt together."""
  return rows(NUM_PROMPTS * NUM_SAMPLES, seed=1)


def summary(loss: float, gradients: dict[str, np.ndarray]) -> dict:
  """The loss, and each gradient's norm and sum of entries times cosines."""
  projections = {}
  for name, gradient in sorted(gradients.items()):
    flat = np.asarray(gradient, np.float64).reshape(-1)
    projection = (flat * np.cos(np.arange(flat.size))).sum()
    projections[name] = [float(np.linalg.norm(flat)), float(projection)]
  return {"loss": float(loss), "gradients": projections}


def _fill(model, other: float):
  import torch

  with torch.no_grad():
    for name, parameter in model.named_parameters():
      drawn = weights(name, tuple(parameter.shape), other)
      parameter.copy_(torch.from_numpy(drawn))
  return model


def _model(other: float, auto_class: str, **settings):
  import torch
  import transformers

  torch.set_num_threads(1)
  given = {k: v for k, v in CONFIG.items() if k != "model_type"}
  config = transformers.AutoConfig.for_model(
    CONFIG["model_type"],
    **given,
    pad_token_id=PAD,
    eos_token_id=EOS,
    **settings,
  )
  model = getattr(transformers, auto_class).from_config(
    config, dtype=torch.float32, attn_implementation="eager"
  )
  return _fill(model, other)


def _tokenizer():
  import tokenizers
  import transformers

  vocabulary = {f"t{i}": i for i in range(64)}
  model = tokenizers.models.WordLevel(vocabulary, unk_token="t2")
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"
  )


def _settings(folder: str) -> dict:
  return {
    "output_dir": folder,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 6,
  }


def _right_padded(given: np.ndarray):
  """Token ids, attention mask and response mask, padded on the right only."""
  import torch

  ids, masks = np.full_like(given, PAD), np.zeros((2, *given.shape), int)
  for number, row in enumerate(given):
    real = row[row != PAD]
    prompt = np.count_nonzero(row[:PROMPT_LENGTH])
    ids[number, : len(real)] = real
    masks[0, number, : len(real)] = 1
    masks[1, number, prompt : len(real)] = 1
  return [torch.from_numpy(x).long() for x in (ids, *masks)]


def _gradients(model) -> dict[str, np.ndarray]:
  found = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
  model.zero_grad()
  return found


def _chosen_first(given: np.ndarray) -> np.ndarray:
  return np.concatenate([given[::2], given[1::2]])


def _dpo(case: str, folder: str):
  import datasets
  import trl

  loss_type, loss_weights = DPO_CASES[case]
  model = _model(0.0, "AutoModelForCausalLM")
  trainer = trl.DPOTrainer(
    model=model,
    ref_model=_model(REFERENCE, "AutoModelForCausalLM"),
    args=trl.DPOConfig(
      **_settings(folder),
      loss_type=loss_type,
      loss_weights=loss_weights,
      beta=BETA,
      label_smoothing=SMOOTHING if case == "robust" else 0.0,
    ),
    train_dataset=datasets.Dataset.from_list(
      [{"prompt": "t3", "chosen": " t4", "rejected": " t5"}] * 6
    ),
    processing_class=_tokenizer(),
  )
  ids, attention, response = _right_padded(_chosen_first(pair_rows()))
  loss = trainer.compute_loss(
    trainer.model,
    {
      "input_ids": ids,
      "attention_mask": attention,
      "completion_mask": response,
    },
  )
  loss.backward()
  return loss.item(), _gradients(trainer.model)


def _reward(folder: str):
  import datasets
  import torch
  import trl

  model = _model(0.0, "AutoModelForSequenceClassification", num_labels=1)
  trainer = trl.RewardTrainer(
    model=model,
    args=trl.RewardConfig(
      **_settings(folder), center_rewards_coefficient=CENTERING
    ),
    train_dataset=datasets.Dataset.from_list(
      [{"chosen": "t3 t4", "rejected": "t3 t5"}] * 6
    ),
    processing_class=_tokenizer(),
  )
  ids, attention, _ = _right_padded(_chosen_first(pair_rows()))
  loss = trainer.compute_loss(
    trainer.model,
    {
      "input_ids": ids,
      "attention_mask": attention,
      "margin": torch.tensor(MARGINS),
    },
  )
  loss.backward()
  return loss.item(), _gradients(trainer.model)


def _rloo(case: str, folder: str):
  import datasets
  import transformers
  import trl

  other, normalized = RLOO_CASES[case]
  given = sample_rows()
  prompts = [row[:PROMPT_LENGTH][row[:PROMPT_LENGTH] != PAD] for row in given]
  responses = [row[PROMPT_LENGTH:][row[PROMPT_LENGTH:] != PAD] for row in given]

  class Given(trl.RLOOTrainer):
    """Takes the responses from here and scores them as below."""

    def _generate(self, prompts_as_text):
      texts = [""] * len(responses)
      return (
        [p.tolist() for p in prompts],
        [r.tolist() for r in responses],
        texts,
      )

  # The trainer reads its reference from where the model comes from.
  source = f"{folder}/{case}"
  _model(other, "AutoModelForCausalLM").save_pretrained(source)
  trainer = Given(
    model=transformers.AutoModelForCausalLM.from_pretrained(
      source, dtype="float32", attn_implementation="eager"
    ),
    reward_funcs=lambda completions, **_: list(REWARDS),
    args=trl.RLOOConfig(
      **_settings(folder),
      beta=KL_COEFFICIENT,
      num_generations=NUM_SAMPLES,
      normalize_advantages=normalized,
      epsilon=CLIP,
    ),
    train_dataset=datasets.Dataset.from_list([{"prompt": "t3"}] * 6),
    processing_class=_tokenizer(),
  )
  _fill(trainer.ref_model, REFERENCE)
  scored = trainer._generate_and_score_completions(
    [{"prompt": "t3"}] * len(given)
  )
  _fill(trainer.model, 0.0)
  loss = trainer.compute_loss(trainer.model, scored)
  loss.backward()
  advantages = scored["advantages"].tolist()
  return loss.item(), _gradients(trainer.model), advantages


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", required=True)
  parser.add_argument("--whole_gradients", help="an .npz file for all of them")
  arguments = parser.parse_args()
  import torch
  import transformers
  import trl

  cases, whole = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    made = {case: _dpo(case, folder) for case in DPO_CASES}
    made["reward"] = _reward(folder)
    made |= {case: _rloo(case, folder) for case in RLOO_CASES}
  for case, (loss, gradients, *rest) in made.items():
    cases[case] = summary(loss, gradients)
    if rest:
      cases[case]["advantages"] = rest[0]
    whole |= {f"{case}:{name}": of for name, of in gradients.items()}
  golden = {
    "made_by": "benchmarks/trl_parity.py",
    "trl": trl.__version__,
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "cases": cases,
  }
  with open(arguments.output, "w") as f:
    json.dump(golden, f)
    f.write("\n")
  if arguments.whole_gradients:
    np.savez(arguments.whole_gradients, **whole)


if __name__ == "__main__":
  main()
