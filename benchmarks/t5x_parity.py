"""Golden logits and losses of t5x, for tests of ours against its networks.

    git clone t5x, airio and jestimator of github.com/google-research and /google
    PYTHONPATH=t5x:airio:jestimator python -P benchmarks/t5x_parity.py \
      --output=tests/testdata/t5x_losses.json --commit=cc342d4

in an environment with this project's requirements. -P, since names of files here
are names of packages there. t5x is run as it is: its networks, its loss, its
Adafactor by its own train step, in float32. Weights are not stored: each is drawn
by a generator seeded by its name, here and in the tests. --checkpoints writes the
models in t5x's two formats; --read restores a checkpoint of ours with t5x and
compares it with those weights.
"""

import argparse
import json
import os
import zlib

import numpy as np

# Widths from 128 on, so that t5x factors the second moments.
SIZES = {
  "vocab_size": 256,
  "emb_dim": 128,
  "num_heads": 4,
  "num_encoder_layers": 2,
  "num_decoder_layers": 3,
  "head_dim": 48,
  "mlp_dim": 192,
}
# Case -> network of t5x, and whether it is scanned.
CASES = {
  "t5": ("t5", False),
  "scalable_t5": ("scalable_t5", True),
  "scalable_t5_unscanned": ("scalable_t5", False),
}
NUM_STEPS = 8
INPUTS_LENGTH, TARGETS_LENGTH = 150, 24


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float32 values of a param by its name without "target"."""
  # RandomState's stream is frozen, that of newer generators is not.
  generator = np.random.RandomState(zlib.crc32(name.encode()))
  drawn = generator.standard_normal(shape)
  if name.endswith("scale"):
    return np.float32(1 + 0.2 * drawn)
  if name.endswith("embedding"):
    return np.float32(drawn)
  if "/query/" in name:
    drawn /= np.sqrt(SIZES["head_dim"])
  return np.float32(drawn / np.sqrt(shape[0]))


def batch() -> dict[str, np.ndarray]:
  """Two rows: two packed examples with padding, and one that fills its row."""
  generator = np.random.RandomState(0)

  def tokens(lengths, size):
    segments = np.zeros((2, size), np.int32)
    segments[0, : lengths[0]] = 1
    segments[0, lengths[0] : sum(lengths)] = 2
    segments[1] = 1
    drawn = generator.randint(2, SIZES["vocab_size"], (2, size))
    return np.int32(np.where(segments > 0, drawn, 0)), segments

  inputs, encoder_segments = tokens((60, 70), INPUTS_LENGTH)
  targets, segments = tokens((9, 12), TARGETS_LENGTH)
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  starts = segments != np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
  return {
    "encoder_input_tokens": inputs,
    "encoder_segment_ids": encoder_segments,
    "decoder_input_tokens": np.int32(
      np.where(starts | (segments == 0), 0, shifted)
    ),
    "decoder_target_tokens": targets,
    "decoder_segment_ids": segments,
    "decoder_loss_weights": np.float32(segments > 0),
  }


def summary(logits: np.ndarray) -> dict:
  """Of float logits [2, T, V]: one token's whole, and each token's sums.

  Digits beyond 1e-6 are not kept.
  """
  logits = logits.astype(np.float64)
  largest = logits.max(axis=-1, keepdims=True)
  normalizer = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
  kept = {
    "last": logits[1, -1],
    "logsumexp": normalizer,
    "weighted": (logits * np.cos(np.arange(logits.shape[-1]))).sum(-1),
  }
  return {name: np.round(x, 6).tolist() for name, x in kept.items()}


def make_model(network_name: str, sizes: dict, **more):
  """An mT5 of t5x with its Adafactor and loss, float32, without dropout."""
  import importlib

  import jax.numpy as jnp
  import seqio
  from t5x import adafactor, models

  network = importlib.import_module(f"t5x.examples.{network_name}.network")
  module = network.Transformer(
    network.T5Config(
      **sizes,
      **more,
      dtype=jnp.float32,
      mlp_activations=("gelu", "linear"),
      dropout_rate=0.0,
      logits_via_embedding=False,
    )
  )
  vocabulary = seqio.PassThroughVocabulary(sizes["vocab_size"])
  return models.EncoderDecoderModel(
    module=module,
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=adafactor.Adafactor(
      decay_rate=0.8,
      step_offset=0,
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
    ),
    z_loss=1e-4,
  )


def learning_rate():
  """mT5's schedule, by t5x."""
  from t5x import utils

  return utils.create_learning_rate_scheduler(
    factors="constant * rsqrt_decay",
    base_learning_rate=1.0,
    warmup_steps=10000,
  )


def _model(case: str):
  network_name, is_scanned = CASES[case]
  more = {"scan_layers": is_scanned} if network_name == "scalable_t5" else {}
  return make_model(network_name, SIZES, **more)


def _state(model, draw):
  """A state of t5x whose params are drawn by name and shape."""
  import jax
  from flax import core, traverse_util
  from t5x import train_state

  variables = model.get_initial_variables(
    jax.random.PRNGKey(0), {name: x.shape for name, x in batch().items()}
  )
  params = traverse_util.flatten_dict(
    core.unfreeze(variables["params"]), sep="/"
  )
  drawn = {name: draw(name, x.shape) for name, x in params.items()}
  variables = {
    **variables,
    "params": traverse_util.unflatten_dict(drawn, sep="/"),
  }
  return train_state.FlaxOptimTrainState.create(
    model.optimizer_def, core.freeze(variables)
  )


def _measure(case: str, checkpoints: str | None) -> dict:
  import functools

  import jax
  from flax import core, traverse_util
  from t5x import trainer

  model = _model(case)
  state = _state(model, weights)
  if checkpoints:
    _save(model, state, os.path.join(checkpoints, case))
  logits = model._compute_logits(state.params, batch(), dropout_rng=None)
  step = jax.jit(
    functools.partial(
      trainer.train_with_lr,
      model=model,
      num_microbatches=None,
      dropout_rng=None,
    )
  )
  losses = []
  for i in range(NUM_STEPS):
    state, metrics = step(
      state, jax.tree.map(jax.numpy.asarray, batch()), learning_rate()(i)
    )
    losses.append(float(metrics["loss"].total))
  return {
    "logits": summary(np.asarray(logits)),
    "losses": losses,
    "shapes": {
      name: x.shape
      for name, x in traverse_util.flatten_dict(
        core.unfreeze(state.params), sep="/"
      ).items()
    },
  }


def _checkpointers(model, state, folder):
  from t5x import checkpoints, partitioning

  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  return {
    "legacy": lambda: checkpoints.Checkpointer(
      state, partitioner, os.path.join(folder, "legacy")
    ),
    "orbax": lambda: checkpoints.OrbaxCheckpointManagerInterface(
      os.path.join(folder, "orbax"), state, partitioner, save_dtype=np.float32
    ),
  }


def _save(model, state, folder: str) -> None:
  for name, make in _checkpointers(model, state, folder).items():
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    checkpointer = make()
    checkpointer.save(state)
    if name == "orbax":
      checkpointer.wait_until_finished()


def _read(case: str, path: str) -> None:
  """Restores a checkpoint of ours by both of t5x's readers."""
  import jax
  from t5x import train_state

  model = _model(case)
  state = _state(model, lambda name, shape: np.zeros(shape, np.float32))
  inference = train_state.InferenceState.create(
    {
      "params": state.params,
      "params_axes": state.params_axes,
    }
  )
  want = _state(model, weights).params
  for name, make in _checkpointers(
    model, inference, os.path.dirname(path)
  ).items():
    os.makedirs(os.path.join(os.path.dirname(path), name), exist_ok=True)
    restored = make().restore(path=path)
    jax.tree.map(np.testing.assert_array_equal, restored.params, want)
    print(f"{path}: equal, by t5x's {name} reader")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output")
  parser.add_argument("--commit", help="of t5x, whose version is always 0.0.0")
  parser.add_argument("--checkpoints", help="folder for those of t5x")
  parser.add_argument("--read", help="CASE:checkpoint_0 that ours wrote")
  arguments = parser.parse_args()
  if arguments.read:
    case, _, path = arguments.read.partition(":")
    _read(case, os.path.abspath(path))
    return
  import jax

  golden = {
    "made_by": "benchmarks/t5x_parity.py",
    "t5x": arguments.commit,
    "jax": jax.__version__,
    "cases": {case: _measure(case, arguments.checkpoints) for case in CASES},
  }
  with open(arguments.output, "w") as f:
    json.dump(golden, f)
    f.write("\n")


if __name__ == "__main__":
  main()
