"""Small models of each family trained on a mesh: functions and a program.

  FAMILY MESH_SHAPE OUTPUT

The program, one of several processes if the environment says so, writes losses
and grad norms of each step to OUTPUT, as JSON.
"""

import dataclasses
import json
import os
import sys

import jax
import numpy as np
from jax.sharding import Mesh

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.models import backends, families, moe
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import processes, rules
from mlm.training import loss_weights, losses, optimizers, schedules
from mlm.training import state as train_state
from mlm.training import step as train_step
from tests import tiny_models

NUM_STEPS, BATCH_SIZE, LENGTH = 20, 8, 16

# Eight of whatever a mesh of eight devices splits.
_DECODER = dataclasses.replace(
  tiny_models.DECODER, num_heads=16, num_kv_heads=8, head_dim=2
)
_EXPERTS = moe.MoEConfig(
  num_experts=8,
  num_experts_per_token=2,
  renormalize=True,
  capacity_factor=None,
  load_balancing_weight=0.01,
  router_z_weight=0.001,
)
FAMILIES = {
  "decoder": _DECODER,
  "biased": dataclasses.replace(
    _DECODER,
    position_encoding="alibi",
    rope_theta=None,
    norm="layer",
    mlp="gelu",
    use_biases=True,
    tie_embeddings=True,
    remat="minimal",
  ),
  "moe": dataclasses.replace(_DECODER, moe=_EXPERTS),
  "moe_with_capacity": dataclasses.replace(
    _DECODER, moe=dataclasses.replace(_EXPERTS, capacity_factor=1.0)
  ),
  "encoder_decoder": dataclasses.replace(
    tiny_models.ENCODER_DECODER, num_heads=8, head_dim=4, remat="full"
  ),
}
# With the kernels' own plain backends, each device on its part, as on a TPU.
_WITH_KERNELS = backends.Backends("reference", "chunked", "ragged", "reference")
KERNELS = {
  "decoder_by_kernel": _WITH_KERNELS,
  "encoder_decoder_by_kernel": _WITH_KERNELS,
}
FAMILIES |= {
  name: FAMILIES[name.removesuffix("_by_kernel")] for name in KERNELS
}


def batch_of(step: int) -> dict[str, np.ndarray]:
  """Two segments and padding a row, whose bounds no device's part respects."""
  generator = np.random.default_rng([11, step])
  shape = (BATCH_SIZE, LENGTH)
  segment_ids = np.repeat([1, 2, 0], [7, 6, 3])
  positions = np.concatenate([np.arange(7), np.arange(6), np.zeros(3)])
  tokens = generator.integers(1, 24, shape)  # half the vocabulary, to learn
  rows = {
    "decoder_input_tokens": np.roll(tokens, 1, axis=1) * (positions > 0),
    "decoder_target_tokens": tokens,
    "decoder_loss_weights": segment_ids > 0,
    "decoder_positions": positions,
    "decoder_segment_ids": segment_ids,
    "decoder_language_ids": generator.integers(0, 3, shape),
    "encoder_input_tokens": generator.integers(1, 48, shape),
    "encoder_segment_ids": np.repeat([1, 2, 0], [5, 9, 2]),
  }
  return {
    name: np.broadcast_to(of, shape).astype(
      np.float32 if name == "decoder_loss_weights" else np.int32
    )
    for name, of in rows.items()
  }


def mesh_of(**sizes: int) -> Mesh:
  """Of the first devices, which need not be all; axes not given have size 1."""
  shape = [sizes.get(axis, 1) for axis in mesh_lib.AXES]
  return Mesh(np.reshape(jax.devices()[: np.prod(shape)], shape), mesh_lib.AXES)


def train(family: str, mesh: Mesh) -> list[tuple[float, float]]:
  """Loss and norm of the gradient of each step."""
  model = families.build(FAMILIES[family], backends=KERNELS.get(family))
  optimizer = optimizers.adamw(
    learning_rate=schedules.warmup_cosine(
      peak=1e-2, warmup_steps=4, num_steps=NUM_STEPS, final_fraction=0.1
    ),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    max_grad_norm=1.0,
  )(None)
  abstract = train_state.abstract(init=model.init, optimizer=optimizer)
  shardings = train_state.state_shardings(mesh, model.logical_axes(), abstract)
  state = train_state.create(
    init=model.init,
    optimizer=optimizer,
    key=jax.random.key(0),
    shardings=shardings,
  )
  step_fn = train_step.make_train_step(
    loss_fn=losses.cross_entropy_loss(
      model.apply,
      z_loss=1e-4,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      backend=linear_cross_entropy.default_backend(),
      num_languages=3,
    ),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=mesh,
    state_shardings=shardings,
  )
  place = train_step.make_place_local(mesh, BATCH_SIZE)
  rows = rules.local_rows(mesh, BATCH_SIZE)
  found = []
  for step in range(NUM_STEPS):
    batch = {name: of[rows] for name, of in batch_of(step).items()}
    state, metrics = step_fn(state, None, place(batch), np.int32(0))
    of_step = jax.device_get([metrics["loss"], metrics["grad_norm"]])
    found.append(tuple(float(sum_ / weight) for sum_, weight in of_step))
  return found


if __name__ == "__main__":
  _family, _sizes, _output = sys.argv[1:]
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    processes.start()
  _found = train(_family, mesh_of(**json.loads(_sizes)))
  with open(_output, "w") as f:
    json.dump(_found, f)
