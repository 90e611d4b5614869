"""Memory of a device in a train step, as arithmetic.

The peak of a step with remat "full" is in the backward pass of a layer: state,
inputs kept of all layers, their gradients, what the head still waits to read,
and what one layer needs. Or it is after it, where tensor splits the vocabulary
little: in the gradients of both tables of pieces. Logits are nowhere: the fused
head keeps none.

Letters: D model width, F MLP width, L layers, V vocabulary, A experts of a
token, X bytes of a device's activations of width D, W bytes of a layer's
gathered matrices.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from mlm.models import backends, decoder
from mlm.planning import runs
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules

_ACTIVATION = 2  # bytes, bfloat16
_STATE_ARRAYS = 3  # params and Adam's two moments, float32
_SHAPES: dict[str, tuple[Any, Any]] = {}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    state: params and two moments, float32.
    gradients: of the layers, float32, all in place from the first on.
    head: hidden states and the gathered output matrix, bfloat16.
    kept: the input of each layer, bfloat16.
    working: of one layer's backward pass: gathered matrices and their
      gradients, activations and theirs.
    tables: gradients of the tables of pieces before they are summed over fsdp,
      when all layers are done.
    logits: 0.
  """

  state: int
  gradients: int
  head: int
  kept: int
  working: int
  tables: int
  logits: int

  @property
  def peak(self) -> int:
    """State, gradients, and the larger of the layers' and the tables' needs."""
    return self.state + self.gradients + max(self.layers, self.tables)

  @property
  def layers(self) -> int:
    """What the backward pass of the layers needs beside state and gradients."""
    return self.head + self.kept + self.working


def of_run(run: runs.Run) -> Memory:
  """Predicted memory of a device with remat "full".

  * state: 12 bytes a param, by the shardings of `mlm.sharding.rules` exactly;
  * gradients: 4 bytes a param of the layers; with micro-batches, of which all
    activations are, 4 more a param for the sum over them;
  * head: X + 2 V D / tensor, since the compiler makes the gradient of the output
    matrix, which reads both, after the layers' backward pass;
  * kept: L X / tensor, since what layers hand on is split along the row;
  * working, dense: 4 X + 6 X F / (D tensor) + 2 W. Four times X: the gathered
    input and cotangent of the MLP, and the parts of the input's cotangent from
    up and gate before they are summed over tensor; six times the MLP's width:
    gate, up, their product, and the cotangents of the three; W twice: the
    matrices of the MLP and their gradients before they are summed over fsdp;
  * working, mixture: the rows of all devices along expert, A copies of each,
    sorted, may all be a device's own: 3 of width D (inputs, outputs, and the
    cotangent of these), 4 of width F (gate, up, their product, and its
    cotangent), beside W twice.

  * tables: 10 V D / tensor: the embedding's gradient in float32, a copy of it in
    another layout, and the output matrix's in bfloat16.

  Raises:
    ValueError: if the model is not rematerialised fully, or the mesh does not
      divide it.
  """
  config = run.model
  if config.remat != "full":
    raise ValueError(
      f"run {run.name!r} has remat {config.remat!r}; the arithmetic is of 'full'"
    )
  per_param = sharded_params(run)
  parts = run.num_microbatches
  X = run.device_tokens // parts * config.d_model * _ACTIVATION
  kept = config.num_layers * X // run.size("tensor")
  ratio = config.d_ff / config.d_model / run.size("tensor")
  matrices = 3 * config.d_model * config.d_ff * _ACTIVATION
  W = matrices // run.size("tensor")
  working = round(4 * X + 6 * X * ratio) + 2 * W
  if config.moe is not None:
    W *= config.moe.num_experts // run.size("expert")
    rows = X * run.size("expert") * config.moe.num_experts_per_token
    working = round(3 * rows + 4 * rows * ratio) + 2 * W
  table = config.vocab_size * config.d_model // run.size("tensor")
  return Memory(
    state=4 * _STATE_ARRAYS * sum(per_param.values()),
    gradients=4 * (per_param["layers"] + (parts > 1) * sum(per_param.values())),
    head=X + _ACTIVATION * table,
    kept=kept,
    working=working,
    tables=10 * table,
    logits=0,
  )


def abstract_mesh(run: runs.Run) -> AbstractMesh:
  """The mesh of a run without devices."""
  sizes = tuple(run.size(axis) for axis in mesh_lib.AXES)
  types = (AxisType.Auto,) * len(sizes)
  return AbstractMesh(sizes, mesh_lib.AXES, axis_types=types)


def sharded_params(run: runs.Run) -> dict[str, int]:
  """Params on one device, by the first part of their name.

  Raises:
    ValueError: if the mesh does not divide a param; the message names it.
  """
  params, axes = _shapes(run.model)
  shardings = rules.named_shardings(abstract_mesh(run), axes, params)
  return {name: _elements(params[name], shardings[name]) for name in params}


def _shapes(config: decoder.DecoderConfig) -> tuple[Any, Any]:
  """Abstract params and their logical axes; tracing them takes a second."""
  key = repr(config)
  if key not in _SHAPES:
    model = decoder.build(config, backends=backends.PLAIN)
    params = jax.eval_shape(model.init, jax.random.key(0))
    _SHAPES[key] = params, model.logical_axes()
  return _SHAPES[key]


def _elements(params: Any, shardings: Any) -> int:
  sizes = jax.tree.map(
    lambda param, sharding: math.prod(sharding.shard_shape(param.shape)),
    params,
    shardings,
  )
  return sum(jax.tree.leaves(sizes))
