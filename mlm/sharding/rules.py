"""Rules from logical axes (what a dimension means) to mesh axes (where it lives)."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp", "expert")
SEQUENCE_AXIS = "sequence"

# Logical axis of a parameter -> mesh axis; None is replicated.
RULES = {
  "vocab": "tensor",
  "mlp": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "embed": "fsdp",
  "head_width": None,
  "expert": "expert",
  "adapter": None,
  "layers": None,
  "buckets": None,
}

# The same for activations: fsdp splits their batch, so embed must stay whole.
# Where their experts are split, the same axis cannot split their batch. Each
# device has the queries of its part of a row, and the keys of all of it.
ACTIVATION_RULES = {
  **RULES,
  "batch": BATCH_AXES,
  "batch_of_experts": ("data", "fsdp"),
  "length": SEQUENCE_AXIS,
  "key_length": None,
  "capacity": SEQUENCE_AXIS,
  # Of what is kept of each layer for the backward pass: between layers no
  # device needs its rows whole, so tensor splits them too (Korthikanti et al.
  # 2022).
  "residual_length": (SEQUENCE_AXIS, "tensor"),
  "embed": None,
}


# Leading logical axes that number matrices instead of belonging to them.
_STACKED = ("layers", "expert")


def num_stacked(axes: tuple[str, ...]) -> int:
  """How many leading logical axes number matrices: layers and experts."""
  return len(list(itertools.takewhile(_STACKED.__contains__, axes)))


def matrix_sides(
  axes: tuple[str, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
  """Which dimensions are the inputs and the outputs of a param's matrices.

  Heads and their widths are one side. What has no embed, or nothing else, is a
  vector: norms, biases, tables of distances.

  Returns:
    Two tuples of positions in axes, or None for vectors.
  """
  places = tuple(range(num_stacked(axes), len(axes)))
  if len(places) < 2 or axes.count("embed") != 1:
    return None
  split = 1 if axes[places[0]] == "embed" else -1
  return places[:split], places[split:]


def constrain(x: jax.Array, logical_axes: tuple[str, ...]) -> jax.Array:
  """Asks the compiler to lay an activation out as `ACTIVATION_RULES` say.

  Without a mesh in context (see `mlm.sharding.mesh.jit`) it returns x. The
  value never changes. A dimension that its mesh axes do not divide, as the
  single row of a prompt, stays whole.

  Args:
    x: any array.
    logical_axes: one name a dimension.

  Raises:
    KeyError: if a name has no rule.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, activation_spec(mesh, logical_axes, x.shape)
  )


def activation_spec(
  mesh: Mesh, logical_axes: tuple[str, ...], shape: tuple[int, ...]
) -> PartitionSpec:
  """What `ACTIVATION_RULES` say; a dimension that does not divide stays whole.

  Raises:
    KeyError: if a name has no rule.
  """
  spec = []
  for axis, size in zip(logical_axes, shape, strict=True):
    mesh_axes = ACTIVATION_RULES[axis]
    if mesh_axes is not None:
      names = mesh_axes if isinstance(mesh_axes, tuple) else (mesh_axes,)
      if size % math.prod(mesh.shape[name] for name in names):
        mesh_axes = None
    spec.append(mesh_axes)
  return PartitionSpec(*spec)


def num_shards(logical_axis: str) -> int:
  """Parts into which the mesh in context splits a dimension; 1 without one."""
  mesh = jax.sharding.get_abstract_mesh()
  mesh_axes = ACTIVATION_RULES[logical_axis]
  if mesh.empty or mesh_axes is None:
    return 1
  names = mesh_axes if isinstance(mesh_axes, tuple) else (mesh_axes,)
  return math.prod(mesh.shape[name] for name in names)


def kernel_placement(
  num_rows: int, num_heads: int, length: int
) -> dict[str, Any]:
  """Where rows, heads and queries live, as a kernel of attention is told it.

  Args:
    num_rows: B.
    num_heads: of keys and values; what splits them splits the queries' too.
    length: T, of the queries.

  Returns:
    {"mesh": of the context, or None, "batch_axes": names, "head_axis": name or
    None, "length_axis": name or None}; what does not divide stays whole.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    names = {"batch_axes": (), "head_axis": None, "length_axis": None}
    return {"mesh": None, **names}
  rows, heads, of_length = activation_spec(
    mesh, ("batch", "kv_heads", "length"), (num_rows, num_heads, length)
  )
  return {
    "mesh": mesh,
    "batch_axes": rows or (),
    "head_axis": heads,
    "length_axis": of_length,
  }


def whole_row_placement(num_rows: int, num_heads: int) -> dict[str, Any]:
  """The same of a kernel that needs the whole row of every query.

  Devices that share a row then have some of its heads each, all tokens of them:
  the compiler exchanges the one for the other before and after. If the heads
  are too few for that, those devices do the same work.

  Args:
    num_rows: B.
    num_heads: N.

  Returns:
    {"mesh": of the context, or None, "batch_axes": names, "head_axes": names}.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return {"mesh": None, "batch_axes": (), "head_axes": ()}
  rows, heads = activation_spec(mesh, ("batch", "heads"), (num_rows, num_heads))
  head_axes = () if heads is None else (heads,)
  both = (*head_axes, SEQUENCE_AXIS)
  if num_heads % math.prod(mesh.shape[axis] for axis in both) == 0:
    head_axes = both
  return {"mesh": mesh, "batch_axes": rows or (), "head_axes": head_axes}


def check_lengths(lengths: Mapping[str, int], mesh: Mesh) -> None:
  """Raises ValueError unless the mesh divides the rows' lengths evenly.

  Args:
    lengths: name -> tokens of a row.
    mesh: of `mlm.sharding.mesh.make_mesh`.
  """
  shards = mesh.shape[SEQUENCE_AXIS]
  for name, length in lengths.items():
    if length % shards:
      raise ValueError(
        f"{name} has rows of {length} tokens, which are not divisible by the "
        f"{shards} shards of the mesh axis {SEQUENCE_AXIS}; use "
        f"{-(-length // shards) * shards} tokens, or change MESH_SHAPE"
      )


def check_batch(
  batch_size: int, mesh: Mesh, *, macro: str = "BATCH_SIZE"
) -> None:
  """Raises ValueError unless the mesh divides the batch evenly.

  Args:
    batch_size: rows.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    macro: what to change, for the message.
  """
  shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if batch_size % shards:
    lower = batch_size // shards * shards
    choices = [size for size in (lower, lower + shards) if size]
    raise ValueError(
      f"global batch {batch_size} is not divisible by the {shards} shards of "
      f"the mesh axes {' x '.join(BATCH_AXES)}; set {macro} to "
      f"{' or '.join(map(str, choices))}, or change MESH_SHAPE"
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the first axis of an array over `BATCH_AXES`."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def tokens_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
  """Of an array of a batch: rows over `BATCH_AXES`, tokens over sequence.

  Args:
    mesh: of `mlm.sharding.mesh.make_mesh`.
    shape: [B] or [B, T, ...]; a T that does not divide stays whole.
  """
  spec = [BATCH_AXES]
  if len(shape) > 1 and shape[1] % mesh.shape[SEQUENCE_AXIS] == 0:
    spec.append(SEQUENCE_AXIS)
  return NamedSharding(mesh, PartitionSpec(*spec))


def rows_of(
  mesh: Mesh, batch_size: int, devices: Iterable[jax.Device]
) -> list[int]:
  """Rows of a batch that devices of the mesh hold, each once, in order.

  Raises:
    ValueError: if the mesh does not divide the batch.
  """
  check_batch(batch_size, mesh)
  slices = batch_sharding(mesh).devices_indices_map((batch_size,))
  parts = [slices[device][0] for device in devices]
  return sorted({row for part in parts for row in range(batch_size)[part]})


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Rows of a batch that the devices of this process hold.

  Processes that share rows (a tensor axis across hosts) each have them; rows of
  one process need not follow each other.
  """
  return rows_of(mesh, batch_size, mesh.local_devices)


def is_axes(node: Any) -> bool:
  """Whether a node of a tree of logical axes is a leaf."""
  return isinstance(node, tuple)


def named_shardings(mesh: Mesh, logical_axes: Any, params: Any) -> Any:
  """Shardings of params by `RULES`.

  Args:
    mesh: of `mlm.sharding.mesh.make_mesh`.
    logical_axes: tree like params; leaves are tuples of logical axis names,
      one a dimension.
    params: tree of arrays, or of what has a shape.

  Returns:
    Tree of NamedSharding.

  Raises:
    ValueError: if a name has no rule, or a dimension is not divisible by its
      mesh axis; the message names the parameter.
  """

  def sharding(path, axes, param):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown or len(axes) != len(param.shape):
      raise ValueError(
        f"parameter {name} of shape {param.shape} has logical axes {axes}; "
        f"one of {', '.join(RULES)} is needed for each dimension"
      )
    spec = []
    for axis, size in zip(axes, param.shape):
      mesh_axis = RULES[axis]
      if mesh_axis and size % mesh.shape[mesh_axis]:
        raise ValueError(
          f"parameter {name}: {axis} = {size} is not divisible by the "
          f"{mesh_axis!r} axis of {mesh.shape[mesh_axis]} devices; change the "
          "model's size or MESH_SHAPE"
        )
      spec.append(mesh_axis)
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(
    sharding, logical_axes, params, is_leaf=is_axes
  )
