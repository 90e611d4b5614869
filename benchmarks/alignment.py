"""Samples a second of a whole RLOO step beside TRL's RLOOTrainer, on two cores.

    taskset -c 0,1 python -m benchmarks.alignment --peer_python=PEER/bin/python

PEER has torch, transformers and trl; it runs this file with -P, since names of
files here are names of packages there. A step samples k responses to each
prompt, scores them by the same rule (the share of even ids), takes
log-probabilities under policy and reference, and makes one AdamW update. A
Llama model with random weights is written once and read by both in float32;
prompts are random, of one length, EOS and padding banned, so that both draw all
tokens. The side ours_unshared reads each prompt k times. Each side runs in a
process of its own, in turn; the first --warmup steps are not counted. Prints
medians as JSON, each with its smallest and largest, and the peak memory.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import sys
import tempfile
import time

import numpy as np

_PAD, _EOS = 0, 1
_RATE, _BETA = 1e-5, 0.05


def _prompts(options, step: int) -> np.ndarray:
  generator = np.random.RandomState(step)
  shape = (options.prompts, options.prompt_length)
  return generator.randint(2, options.vocab_size, shape).astype(np.int32)


def _write_model(options) -> None:
  import tokenizers
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=options.vocab_size,
    hidden_size=options.d_model,
    intermediate_size=options.d_model * 7 // 2,
    num_hidden_layers=options.num_layers,
    num_attention_heads=options.d_model // 32,
    num_key_value_heads=options.d_model // 128,
    head_dim=32,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    tie_word_embeddings=False,
    pad_token_id=_PAD,
    eos_token_id=_EOS,
  )
  transformers.LlamaForCausalLM(config).save_pretrained(options.model)
  # A word an id: what TRL needs to turn prompts into ids and back.
  words = {f"t{i}": i for i in range(options.vocab_size)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="t2")
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=f"t{_PAD}",
    eos_token=f"t{_EOS}",
    padding_side="left",
  ).save_pretrained(options.model)


def _theirs(options) -> list[float]:
  import datasets
  import torch
  import transformers
  import trl

  torch.set_num_threads(2)
  times = []

  class Clock(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
      times.append(time.perf_counter())

  rows = np.concatenate([_prompts(options, s) for s in range(_steps(options))])
  texts = [" ".join(f"t{i}" for i in row) for row in rows]
  tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)

  def share_of_even(completion_ids, **kwargs):
    return [
      sum(int(i) % 2 == 0 for i in ids) / len(ids) for ids in completion_ids
    ]

  with tempfile.TemporaryDirectory() as output:
    trainer = trl.RLOOTrainer(
      model=transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32
      ),
      processing_class=tokenizer,
      reward_funcs=share_of_even,
      train_dataset=datasets.Dataset.from_dict({"prompt": texts}),
      callbacks=[Clock()],
      args=trl.RLOOConfig(
        output_dir=output,
        per_device_train_batch_size=options.prompts * options.samples,
        gradient_accumulation_steps=1,
        num_generations=options.samples,
        max_completion_length=options.response_length,
        max_steps=_steps(options),
        num_iterations=1,
        beta=_BETA,
        learning_rate=_RATE,
        lr_scheduler_type="constant",
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        generation_kwargs={"suppress_tokens": [_PAD, _EOS]},
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        shuffle_dataset=False,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
      ),
    )
    trainer.train()
    lengths = [
      log["completions/mean_length"]
      for log in trainer.state.log_history
      if "completions/mean_length" in log
    ]
  if set(lengths) != {float(options.response_length)}:
    raise RuntimeError(
      f"theirs drew responses of {sorted(set(lengths))} tokens"
    )
  return times


def _ours(options, *, is_shared: bool) -> list[float]:
  import jax

  from kernels.linear_cross_entropy import api as linear_cross_entropy
  from mlm.alignment import estimators, rloo, rollout_batches
  from mlm.checkpoints import hugging_face, safetensors
  from mlm.data import prompts as prompts_lib
  from mlm.decoding import generate as generate_lib
  from mlm.decoding import rollouts, sampling
  from mlm.models import families
  from mlm.sharding import mesh as mesh_lib
  from mlm.training import optimizers, step
  from mlm.training import state as train_state

  with open(os.path.join(options.model, "config.json")) as f:
    config = hugging_face.read_config(
      json.load(f), activation_dtype="float32", remat="none"
    )
  model = families.build(config)
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
  optimizer = optimizers.adamw(
    learning_rate=lambda step: jax.numpy.float32(_RATE),
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,
  )(model.logical_axes())
  abstract = train_state.abstract(init=model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, model.logical_axes(), abstract)
  params = hugging_face.from_hugging_face(
    config, safetensors.read(options.model), shardings=shardings.params
  )
  reference = jax.tree.map(lambda x: x.copy(), params)
  state = train_state.from_params(
    params=params, optimizer=optimizer, shardings=shardings
  )
  backend = linear_cross_entropy.default_backend()
  estimator = estimators.paper(kl_coefficient=_BETA)
  per_row = options.samples if is_shared else 1
  generate = generate_lib.make_generator(
    model,
    response_length=options.response_length,
    samples_per_prompt=per_row,
    sampling=sampling.Sampling(
      forbidden_ids=(_PAD, _EOS),
      min_tokens=0,
      temperature=1.0,
      top_k=None,
      top_p=1.0,
    ),
    eos_id=_EOS,
    pad_id=_PAD,
  )

  def sample(params, prompts, prompt_ids, seed, step):
    keys = rollouts.sample_keys(seed, step, prompt_ids, options.samples)
    prompts = np.repeat(prompts, options.samples // per_row, axis=0)
    drawn = generate(params, prompts, keys)
    return jax.tree.map(
      lambda x: x.reshape(options.prompts, options.samples, *x.shape[2:]), drawn
    )

  place = step.make_place(mesh)
  source = rloo.make_batch_source(
    rollout_batches.make_rollout(
      prompts=lambda step: {
        "prompts": _prompts(options, step),
        "prompt_ids": np.arange(options.prompts, dtype=np.uint32),
        "language_ids": np.zeros(options.prompts, np.int32),
      },
      sample=sample,
      to_batch=lambda rows, ids: prompts_lib.response_batch(
        rows, ids, prompt_length=options.prompt_length
      ),
      place=place,
      logprobs=rollout_batches.make_rollout_logprobs(
        model.apply, model.apply, backend=backend
      ),
      reference=reference,
      score=lambda rows, responses, ids: {
        "even": (responses % 2 == 0).mean(axis=1)
      },
      reward_of_parts=lambda parts: parts["even"],
      max_logprob_gap=1e-3,
      seed=0,
      eos_id=_EOS,
    ),
    policy_of=lambda params: params,
    estimator=estimator,
    updates_per_rollout=1,
    history=os.devnull,
  )
  step_fn = step.make_train_step(
    loss_fn=rloo.rloo_loss(
      model.apply, estimator=estimator, backend=backend, num_languages=1
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=mesh,
    state_shardings=shardings,
  )
  times = []
  for number in range(_steps(options)):
    # A host integer for its step, as the loop hands the state over.
    batch = source(dataclasses.replace(state, step=np.int32(number)))
    if not (batch["length"] == options.response_length).all():
      raise RuntimeError(
        f"ours drew responses of {set(batch['length'])} tokens"
      )
    state, metrics = step_fn(state, None, place(batch), 0)
    jax.block_until_ready((state, metrics))
    times.append(time.perf_counter())
  return times


def _steps(options) -> int:
  return options.warmup + options.steps + 1


_SIDES = {
  "ours": lambda options: _ours(options, is_shared=True),
  "ours_unshared": lambda options: _ours(options, is_shared=False),
  "theirs": _theirs,
}


def _time(options) -> None:
  """Prints the samples a second of each step of a side, and its memory."""
  times = _SIDES[options.side](options)
  number = options.prompts * options.samples
  rates = [number / s for s in np.diff(times)[options.warmup :]]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  print(json.dumps({"rates": rates, "peak_bytes": peak}))


def _compare(options, arguments: list[str]) -> None:
  from benchmarks import in_turn

  ours = [sys.executable, "-m", "benchmarks.alignment"]
  theirs = [options.peer_python, "-P", __file__]
  with tempfile.TemporaryDirectory() as folder:
    given = [*arguments, f"--model={folder}"]
    in_turn.run({"write": theirs}, given, rounds=1)
    runs = in_turn.run(
      {"ours": ours, "ours_unshared": ours, "theirs": theirs},
      given,
      rounds=options.rounds,
    )
  rates = {
    side: [rate for run in of for rate in run["rates"]]
    for side, of in runs.items()
  }
  medians = {side: statistics.median(x) for side, x in rates.items()}
  settings = (
    "prompts",
    "samples",
    "prompt_length",
    "response_length",
    "vocab_size",
    "d_model",
    "num_layers",
  )
  result = {
    **{name: getattr(options, name) for name in settings},
    "samples_per_second": {
      side: [round(x, 2) for x in (medians[side], min(all_), max(all_))]
      for side, all_ in rates.items()
    },
    "peak_gib": {
      side: round(max(run["peak_bytes"] for run in of) / 2**30, 2)
      for side, of in runs.items()
    },
    "ratio_to_theirs": round(medians["ours"] / medians["theirs"], 2),
    "gain_of_sharing": round(medians["ours"] / medians["ours_unshared"], 2),
  }
  print(json.dumps(result))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--peer_python")
  parser.add_argument("--prompts", type=int, default=8)
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument("--prompt_length", type=int, default=256)
  parser.add_argument("--response_length", type=int, default=64)
  parser.add_argument("--vocab_size", type=int, default=32000)
  parser.add_argument("--d_model", type=int, default=256)
  parser.add_argument("--num_layers", type=int, default=4)
  parser.add_argument("--warmup", type=int, default=1)
  parser.add_argument("--steps", type=int, default=4)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--side", choices=["write", *_SIDES])
  parser.add_argument("--model", help="folder, with --side")
  options = parser.parse_args()
  if options.side == "write":
    _write_model(options)
    print("{}")
  elif options.side:
    _time(options)
  else:
    _compare(options, sys.argv[1:])


if __name__ == "__main__":
  main()
