"""Seconds a training step beside t5x and transformers, on one core, float32.

    taskset -c 0 python -m benchmarks.models --case=mt5_small --peer_python=PEER

mt5_small is mT5-small with its 250,112 pieces, rows of 64 inputs and 32 targets;
mt5_example a small one, rows of 256 and 64; both beside t5x as it is, Adafactor on
both sides. llama is a small Llama beside transformers, AdamW with clipping on
both. The same batch every step; random initial weights of each side's own. Each
side runs in a process of its own, in turn: compilation and a first step apart,
then --steps steps. PEER is the Python of an environment with t5x (see
benchmarks/t5x_parity.py) or with torch and transformers; it runs this file with
-P, since names of files here are names of packages there. Prints medians as
JSON, each with its smallest and largest, also of the processor's seconds, which
other work on the machine disturbs less.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

_T5X_SIZES = {
  "mt5_small": {
    "vocab_size": 250112,
    "emb_dim": 512,
    "num_heads": 6,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "head_dim": 64,
    "mlp_dim": 1024,
  },
  "mt5_example": {
    "vocab_size": 8192,
    "emb_dim": 256,
    "num_heads": 8,
    "num_encoder_layers": 4,
    "num_decoder_layers": 4,
    "head_dim": 32,
    "mlp_dim": 512,
  },
}
_LLAMA = {
  "vocab_size": 32000,
  "hidden_size": 256,
  "intermediate_size": 896,
  "num_hidden_layers": 4,
  "num_attention_heads": 8,
  "num_key_value_heads": 2,
  "head_dim": 32,
}
# Rows, inputs, targets.
_ROWS = {
  "mt5_small": (2, 64, 32),
  "mt5_example": (8, 256, 64),
  "llama": (8, 0, 256),
}
_ADAMW = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
_RATE = 3e-4


def _batch(case: str) -> dict[str, np.ndarray]:
  B, S, T = _ROWS[case]
  vocab_size = _T5X_SIZES.get(case, _LLAMA)["vocab_size"]
  generator = np.random.RandomState(0)

  def tokens(length):
    return generator.randint(2, vocab_size, (B, length)).astype(np.int32)

  targets, ones = tokens(T), np.ones((B, T), np.int32)
  batch = {
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.float32(ones),
    "decoder_segment_ids": ones,
    "decoder_positions": np.arange(T, dtype=np.int32) * ones,
  }
  if S:
    batch["encoder_input_tokens"] = tokens(S)
    batch["encoder_segment_ids"] = np.ones((B, S), np.int32)
    batch["encoder_positions"] = np.arange(S, dtype=np.int32) + np.zeros(
      (B, S), np.int32
    )
  return batch


def _our_mt5(case):
  from mlm.models import encdec

  sizes = _T5X_SIZES[case]
  return encdec.EncoderDecoderConfig(
    vocab_size=sizes["vocab_size"],
    num_encoder_layers=sizes["num_encoder_layers"],
    num_decoder_layers=sizes["num_decoder_layers"],
    d_model=sizes["emb_dim"],
    d_ff=sizes["mlp_dim"],
    num_heads=sizes["num_heads"],
    head_dim=sizes["head_dim"],
    num_buckets=32,
    max_distance=128,
    relative_bias="stack",
    norm_epsilon=1e-6,
    activation_dtype="float32",
    remat="none",
  )


def _ours(case: str) -> Iterator[float]:
  """The step that jobs make; yields losses."""
  import jax

  from kernels.linear_cross_entropy import api
  from mlm.checkpoints import hugging_face
  from mlm.languages import registry
  from mlm.models import families
  from mlm.sharding import mesh as mesh_lib
  from mlm.training import (
    adafactor,
    loss_weights,
    losses,
    optimizers,
    schedules,
    step,
  )
  from mlm.training import state as train_state

  if case == "llama":
    config = hugging_face.read_config(
      {
        **_LLAMA,
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
      },
      activation_dtype="float32",
      remat="none",
    )
    optimizer = optimizers.adamw(
      learning_rate=lambda step: jax.numpy.float32(_RATE),
      max_grad_norm=1.0,
      **_ADAMW,
    )
  else:
    config = _our_mt5(case)
    optimizer = adafactor.adafactor(
      learning_rate=schedules.inverse_square_root(base=1.0, warmup_steps=10000),
      decay_exponent=0.8,
      clipping_threshold=1.0,
      min_dim_size_to_factor=128,
    )
  model = families.build(config)
  optimizer = optimizer(model.logical_axes())
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
  abstract = train_state.abstract(init=model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, model.logical_axes(), abstract)
  state = train_state.create(
    init=model.init,
    optimizer=optimizer,
    key=jax.random.key(0),
    shardings=shardings,
  )
  step_fn = step.make_train_step(
    loss_fn=losses.cross_entropy_loss(
      model.apply,
      z_loss=0.0 if case == "llama" else 1e-4,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      backend=api.default_backend(),
      num_languages=registry.NUM_LANGUAGES,
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=mesh,
    state_shardings=shardings,
  )
  batch = _batch(case)
  batch["decoder_language_ids"] = np.zeros_like(batch["decoder_segment_ids"])
  place = step.make_place(mesh)
  while True:
    state, metrics = step_fn(state, None, place(batch), 0)
    jax.block_until_ready((state, metrics))
    numerator, denominator = metrics["loss"]
    yield float(numerator / denominator)


def _t5x(case: str) -> Iterator[float]:
  """t5x's own trainer; yields losses, which have the z-loss in them."""
  import jax

  # Behind all else: names of folders here are names of packages there.
  sys.path.append(os.fspath(pathlib.Path(__file__).parents[1]))
  from t5x import partitioning, train_state, trainer

  from benchmarks import t5x_parity

  model = t5x_parity.make_model("t5", _T5X_SIZES[case])
  batch = _batch(case)
  partitioner = partitioning.PjitPartitioner(num_partitions=1)

  def init():
    variables = model.get_initial_variables(
      jax.random.PRNGKey(0), {name: x.shape for name, x in batch.items()}
    )
    return train_state.FlaxOptimTrainState.create(
      model.optimizer_def, variables
    )

  axes = partitioner.get_mesh_axes(jax.eval_shape(init))
  state = partitioner.partition(init, None, axes)()
  own = trainer.Trainer(
    model,
    state,
    partitioner,
    eval_names=[],
    summary_dir=None,
    train_state_axes=axes,
    rng=jax.random.PRNGKey(0),
    learning_rate_fn=t5x_parity.learning_rate(),
    num_microbatches=None,
  )
  own.compile_train(batch)
  step_fn = own._compiled_train_step
  while True:
    state, metrics = step_fn(state, batch)
    jax.block_until_ready((state, metrics))
    yield float(metrics["loss"].total) / batch["decoder_target_tokens"].size


def _torch(case: str) -> Iterator[float]:
  """transformers' model and torch's fused AdamW; yields losses."""
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      **_LLAMA,
      rms_norm_eps=1e-5,
      rope_theta=500000.0,
      tie_word_embeddings=False,
      use_cache=False,
    )
  ).train()
  optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=_RATE,
    betas=(_ADAMW["beta1"], _ADAMW["beta2"]),
    eps=_ADAMW["epsilon"],
    weight_decay=_ADAMW["weight_decay"],
    fused=True,
  )
  batch = {
    name: torch.from_numpy(x).long()
    for name, x in _batch(case).items()
    if name.endswith("tokens")
  }
  while True:
    logits = model(input_ids=batch["decoder_input_tokens"]).logits
    loss = torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), batch["decoder_target_tokens"].flatten()
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    yield loss.item()


_SIDES: dict[str, Callable] = {"ours": _ours, "t5x": _t5x, "torch": _torch}


def _time(options) -> None:
  """Prints the seconds of each step of a side, and its losses."""
  started = time.perf_counter()
  losses = _SIDES[options.side](options.case)
  found, seconds, cpu_seconds = [next(losses)], [], []
  first = time.perf_counter() - started
  for _ in range(options.steps):
    start, cpu_start = time.perf_counter(), time.process_time()
    found.append(next(losses))
    seconds.append(time.perf_counter() - start)
    cpu_seconds.append(time.process_time() - cpu_start)
  if not found[-1] < found[0]:
    raise RuntimeError(f"{options.side} does not learn its batch: {found}")
  print(
    json.dumps(
      {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "first": first,
        "losses": found,
      }
    )
  )


def _compare(options, arguments: list[str]) -> None:
  from benchmarks import in_turn  # not where the peer runs this file

  peer = "torch" if options.case == "llama" else "t5x"
  commands = {
    "ours": [sys.executable, "-m", "benchmarks.models"],
    peer: [options.peer_python, "-P", __file__],
  }
  runs = in_turn.run(commands, arguments, rounds=options.rounds)

  def of_steps(name):
    return {
      side: [second for run in of_side for second in run[name]]
      for side, of_side in runs.items()
    }

  def ratio(name):
    median = {side: statistics.median(x) for side, x in of_steps(name).items()}
    return round(median[peer] / median["ours"], 2)

  def summary(name):
    return {
      side: [round(y, 3) for y in (statistics.median(x), min(x), max(x))]
      for side, x in of_steps(name).items()
    }

  result = {
    "case": options.case,
    "rows": _ROWS[options.case],
    "seconds_per_step": summary("seconds"),
    "cpu_seconds_per_step": summary("cpu_seconds"),
    "seconds_to_first_step": {
      side: round(statistics.median(run["first"] for run in x), 1)
      for side, x in runs.items()
    },
    "losses": {
      side: [round(y, 3) for y in (x[0]["losses"][0], x[0]["losses"][-1])]
      for side, x in runs.items()
    },
    "ratio": ratio("seconds"),
    "cpu_ratio": ratio("cpu_seconds"),
  }
  print(json.dumps(result))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--case", choices=_ROWS, required=True)
  parser.add_argument("--peer_python")
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--side", choices=_SIDES)
  options = parser.parse_args()
  if options.side:
    _time(options)
  else:
    _compare(options, sys.argv[1:])


if __name__ == "__main__":
  main()
