"""A small training job, for tests that kill it.

  OUTPUT MESH_SHAPE [KILL_AT SIGNAL PROCESS]

Process PROCESS sends itself the signal while step KILL_AT is being prepared. It
is one of several if the environment says so.
"""

import importlib.util
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.checkpoints import manager
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import processes, rules
from mlm.training import (
  loop,
  loss_weights,
  losses,
  optimizers,
  progress,
  schedules,
)
from mlm.training import state as train_state
from mlm.training import step as train_step

NUM_STEPS = 11


def _tiny():
  """The module with the model, which is no package to import from."""
  path = pathlib.Path(__file__).with_name("conftest.py")
  spec = importlib.util.spec_from_file_location("tiny", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def train(
  output,
  *,
  before_batch=lambda step: None,
  mesh_shape=None,
  loss_scale=lambda step: 1.0,
  num_steps=NUM_STEPS,
  batch_size=8,
  checkpoint_period=4,
):
  """Trains, or resumes; returns the final state."""
  tiny = _tiny()
  sizes = [(mesh_shape or {}).get(axis, 1) for axis in mesh_lib.AXES]
  devices = jax.devices()[: np.prod(sizes)]
  mesh = Mesh(np.reshape(devices, sizes), mesh_lib.AXES)
  optimizer = optimizers.adamw(
    learning_rate=schedules.warmup_cosine(
      peak=1e-2, warmup_steps=3, num_steps=NUM_STEPS, final_fraction=0.1
    ),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    max_grad_norm=1.0,
  )(None)
  cross_entropy = losses.cross_entropy_loss(
    tiny.TinyModel.apply,
    z_loss=1e-4,
    label_smoothing=0.0,
    token_weights=loss_weights.per_token,
    backend=linear_cross_entropy.default_backend(),
    num_languages=3,
  )

  def loss_fn(params, frozen, batch, key):
    """With noise from the key, so that a resumption must repeat the keys."""
    scale = batch.pop("scale")[0]
    noise = 0.01 * jax.random.normal(key, params["embedding"].shape)
    params = {**params, "embedding": params["embedding"] + noise}
    loss, metrics = cross_entropy(params, frozen, batch, key)
    numerator, denominator = metrics["loss"]
    metrics["loss"] = (numerator * scale, denominator)
    return loss * scale, metrics

  abstract = train_state.abstract(init=tiny.TinyModel.init, optimizer=optimizer)
  shardings = train_state.state_shardings(
    mesh, tiny.TinyModel.logical_axes(), abstract
  )
  checkpointer = manager.Checkpointer(
    pathlib.Path(output) / "checkpoints", keep=2, metadata={"width": tiny.WIDTH}
  )
  if checkpointer.latest_step() is None:
    state = train_state.create(
      init=tiny.TinyModel.init,
      optimizer=optimizer,
      key=jax.random.key(0),
      shardings=shardings,
    )
  else:
    state = checkpointer.restore(
      train_state.with_shardings(abstract, shardings)
    )

  def batch_source(state):
    step = int(state.step)
    before_batch(step)
    batch = tiny._batch(step, batch_size=batch_size)
    scale = np.full(batch_size, loss_scale(step), np.float32)
    rows = rules.local_rows(mesh, batch_size)
    return {name: of[rows] for name, of in {**batch, "scale": scale}.items()}

  try:
    return loop.train(
      state=state,
      batch_source=batch_source,
      place=train_step.make_place_local(mesh, batch_size),
      step_fn=train_step.make_train_step(
        loss_fn=loss_fn,
        optimizer=optimizer,
        num_microbatches=1,
        mesh=mesh,
        state_shardings=shardings,
      ),
      frozen=None,
      num_steps=num_steps,
      seed=17,
      checkpointer=checkpointer,
      checkpoint_period=checkpoint_period,
      log_period=2,
      output=output,
      language_codes=("swh_Latn", "hin_Deva", "zho_Hani"),
      describe=progress.nothing,
    )
  finally:
    checkpointer.close()


if __name__ == "__main__":
  _output, _mesh_shape, *_kill = sys.argv[1:]
  _kill_at, _signal, _process = map(int, _kill) if _kill else (-1, 0, 0)
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    processes.start(heartbeat_seconds=10)

  def _before_batch(step):
    if step == _kill_at and jax.process_index() == _process:
      os.kill(os.getpid(), _signal)
    if _kill_at >= 0 and jax.process_count() > 1:
      time.sleep(0.3)  # the news of a SIGTERM travels slower than such steps

  train(_output, before_batch=_before_batch, mesh_shape=json.loads(_mesh_shape))
