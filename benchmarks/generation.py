"""Generated tokens a second beside `generate` of transformers, on one core.

    taskset -c 0 python -m benchmarks.generation --peer_python=PEER/bin/python

PEER has torch and transformers; it runs this file with -P, since names of files
here are names of packages there. A Llama model with random weights is written
once in their format, and read by both in float32. Random prompts of one length,
--samples responses to each, drawn from the whole distribution with EOS banned,
so that both draw all tokens. Each side runs in a process of its own, in turn;
compilation and a first call are not timed. Prints medians as JSON, each with its
smallest and largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

_EOS = 1


def _prompts(options) -> np.ndarray:
  generator = np.random.RandomState(0)
  shape = (options.prompts, options.prompt_length)
  return generator.randint(2, options.vocab_size, shape)


def _write_model(options) -> None:
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
  )
  transformers.LlamaForCausalLM(config).save_pretrained(options.model)


def _theirs(options):
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM.from_pretrained(
    options.model, dtype=torch.float32
  ).eval()
  prompts = torch.from_numpy(_prompts(options))

  def generate():
    return model.generate(
      prompts,
      attention_mask=torch.ones_like(prompts),
      do_sample=True,
      temperature=1.0,
      top_k=0,
      top_p=1.0,
      num_return_sequences=options.samples,
      suppress_tokens=[_EOS],
      max_new_tokens=options.response_length,
      eos_token_id=_EOS,
      pad_token_id=0,
    )[:, options.prompt_length :].numpy()

  return generate


def _ours(options):
  import jax

  from mlm.checkpoints import hugging_face, safetensors
  from mlm.decoding import generate as generate_lib
  from mlm.decoding import sampling
  from mlm.models import families

  with open(os.path.join(options.model, "config.json")) as f:
    config = hugging_face.read_config(
      json.load(f), activation_dtype="float32", remat="none"
    )
  model = families.build(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  params = hugging_face.from_hugging_face(
    config,
    safetensors.read(options.model),
    shardings=jax.tree.map(lambda _: here, abstract),
  )
  generate = generate_lib.make_generator(
    model,
    response_length=options.response_length,
    samples_per_prompt=options.samples,
    sampling=sampling.Sampling(
      forbidden_ids=(_EOS,),
      min_tokens=0,
      temperature=1.0,
      top_k=None,
      top_p=1.0,
    ),
    eos_id=_EOS,
    pad_id=0,
  )
  prompts = _prompts(options).astype(np.int32)
  keys = jax.random.split(jax.random.key(0), len(prompts) * options.samples)

  def drawn():
    tokens = np.asarray(generate(params, prompts, keys).tokens)
    return tokens.reshape(-1, options.response_length)

  return drawn


_SIDES = {"ours": _ours, "theirs": _theirs}


def _time(options) -> None:
  """Prints the tokens a second of each call of a side."""
  generate = _SIDES[options.side](options)
  shape = (options.prompts * options.samples, options.response_length)
  rates = []
  for _ in range(options.calls + 1):
    start = time.perf_counter()
    tokens = generate()
    rates.append(tokens.size / (time.perf_counter() - start))
    if tokens.shape != shape or (tokens == _EOS).any():
      raise RuntimeError(f"{options.side} drew {tokens.shape}, not {shape}")
  print(json.dumps(rates[1:]))


def _compare(options, arguments: list[str]) -> None:
  environment = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
  }
  commands = {
    "ours": [sys.executable, "-m", "benchmarks.generation"],
    "theirs": [options.peer_python, "-P", __file__],
  }
  with tempfile.TemporaryDirectory() as folder:

    def run(side, *more):
      command = [*commands[side], *arguments, f"--model={folder}", *more]
      return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
      ).stdout

    run("theirs", "--side=write")
    rates = {side: [] for side in _SIDES}
    for _ in range(options.rounds):
      for side, measured in rates.items():
        measured += json.loads(run(side, f"--side={side}").splitlines()[-1])
  medians = {side: statistics.median(x) for side, x in rates.items()}
  settings = ("prompts", "samples", "prompt_length", "response_length")
  result = {
    **{name: getattr(options, name) for name in settings},
    "d_model": options.d_model,
    "tokens_per_second": {
      side: [round(x, 1) for x in (medians[side], min(all_), max(all_))]
      for side, all_ in rates.items()
    },
    "ratio": round(medians["ours"] / medians["theirs"], 2),
  }
  print(json.dumps(result))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--peer_python")
  parser.add_argument("--prompts", type=int, default=4)
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument("--prompt_length", type=int, default=448)
  parser.add_argument("--response_length", type=int, default=64)
  parser.add_argument("--vocab_size", type=int, default=32000)
  parser.add_argument("--d_model", type=int, default=256)
  parser.add_argument("--num_layers", type=int, default=4)
  parser.add_argument("--calls", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--side", choices=["write", *_SIDES])
  parser.add_argument("--model", help="folder, with --side")
  options = parser.parse_args()
  if options.side == "write":
    _write_model(options)
  elif options.side:
    _time(options)
  else:
    _compare(options, sys.argv[1:])


if __name__ == "__main__":
  main()
