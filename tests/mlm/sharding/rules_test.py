"""Meshes and rules: shapes that fit, and errors with the arithmetic."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules


def _mesh(data=2, fsdp=2, tensor=2, **others):
  return mesh_lib.make_mesh(
    {"data": data, "fsdp": fsdp, "tensor": tensor, **others}
  )


def test_mesh_axes_have_the_sizes_given():
  shape = {"data": 1, "fsdp": 2, "expert": 2, "sequence": 1, "tensor": 2}
  assert dict(mesh_lib.make_mesh(shape).shape) == shape
  assert dict(_mesh(1, 4, 2).shape) == {**shape, "fsdp": 4, "expert": 1}
  assert dict(_mesh(1, 2, 2, sequence=2).shape) == {
    **shape,
    "expert": 1,
    "sequence": 2,
  }


@pytest.mark.parametrize(
  "shape, message",
  [
    ({"data": 3, "fsdp": 1, "tensor": 1}, "needs 3 devices but there are 8"),
    ({"data": 8, "fsdp": 1}, "exactly the axes"),
    ({"data": 8, "fsdp": 1, "tensor": 1, "model": 1}, "exactly the axes"),
    ({"data": 0, "fsdp": 1, "tensor": 8}, "at least 1"),
  ],
)
def test_impossible_meshes_are_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    mesh_lib.make_mesh(shape)


@dataclasses.dataclass(frozen=True)
class Device:
  """As much of a device as a mesh looks at."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "cpu"
  device_kind: str = "cpu"


def _devices(*of_slices):
  """As many devices as given in each slice, in no order."""
  indices = [i for i, number in enumerate(of_slices) for _ in range(number)]
  devices = [Device(id_, i) for id_, i in enumerate(indices)]
  return devices[::2] + devices[1::2]


def test_only_the_data_axis_crosses_slices():
  shape = {"slices": 2, "data": 4, "fsdp": 2, "sequence": 2, "tensor": 1}
  mesh = mesh_lib.make_mesh(shape, devices=_devices(8, 8))
  assert dict(mesh.shape) == {
    "data": 4,
    "fsdp": 2,
    "expert": 1,
    "sequence": 2,
    "tensor": 1,
  }
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
  slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  for i, of_rows in enumerate(slice_of):
    assert (of_rows == i // 2).all()
  assert len(set(mesh.devices.flat)) == 16


@pytest.mark.parametrize(
  "sizes, of_slices, message",
  [
    ({"data": 4, "fsdp": 4}, (8, 8), "16 devices are in 2 slices.* says 1"),
    ({"slices": 4, "data": 4, "fsdp": 4}, (8, 8), "in 2 slices.* says 4"),
    (
      {"slices": 2, "data": 1, "fsdp": 16},
      (8, 8),
      "data = 1 over 2 .* data to 2",
    ),
    (
      {"slices": 2, "data": 4, "fsdp": 4},
      (6, 10),
      r"devices: .*\[6, 10\]|6, 10",
    ),
    ({"slices": 2, "data": 2, "fsdp": 4}, (8, 8), "needs 8 devices"),
    ({"slices": 0, "data": 4, "fsdp": 4}, (8, 8), "at least 1"),
  ],
)
def test_slices_that_cannot_be_joined_are_refused(sizes, of_slices, message):
  with pytest.raises(ValueError, match=message):
    mesh_lib.make_mesh({"tensor": 1, **sizes}, devices=_devices(*of_slices))


@pytest.mark.tpu
def test_slices_of_a_tpu_are_joined_along_data():
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  topology = topologies.get_topology_desc(
    platform="tpu", topology_name="v5p:2x2x2", num_slices=2
  )
  mesh = mesh_lib.make_mesh(
    {"slices": 2, "data": 2, "fsdp": 4, "tensor": 2}, devices=topology.devices
  )
  slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert (slice_of[0] == 0).all() and (slice_of[1] == 1).all()

  @jax.jit
  def gradient(x, w):
    return jax.grad(lambda w: ((x @ w) ** 2).sum())(w)

  operands = (
    ((16, 256), PartitionSpec(("data", "fsdp"))),
    ((256, 256), PartitionSpec("fsdp", "tensor")),
  )
  text = (
    gradient.lower(
      *(
        jax.ShapeDtypeStruct(
          shape, np.float32, sharding=NamedSharding(mesh, spec)
        )
        for shape, spec in operands
      )
    )
    .compile()
    .as_text()
  )
  # Over the network goes the sum of the gradients, of a part each.
  crossing = re.findall(r'_xla_host_transfer_rendezvous="([a-z-]+)', text)
  assert set(crossing) == {"all-reduce"}
  assert "reduce-scatter(" in text


def test_an_indivisible_batch_is_told_what_would_fit():
  rules.check_batch(12, _mesh())
  with pytest.raises(ValueError, match="set BATCH_SIZE to 8 or 12"):
    rules.check_batch(10, _mesh())


def test_params_are_split_as_the_rules_say():
  shardings = rules.named_shardings(
    _mesh(), {"w": ("embed", "mlp")}, {"w": np.zeros((4, 6))}
  )
  assert shardings["w"].spec == PartitionSpec("fsdp", "tensor")
  placed = jax.device_put(np.zeros((4, 6)), shardings["w"])
  assert placed.addressable_shards[0].data.shape == (2, 3)


def test_an_indivisible_parameter_is_named():
  with pytest.raises(ValueError, match="a/w: mlp = 5 is not divisible"):
    rules.named_shardings(
      _mesh(), {"a": {"w": ("embed", "mlp")}}, {"a": {"w": np.zeros((4, 5))}}
    )


def test_an_unknown_axis_is_named():
  with pytest.raises(ValueError, match="logical axes"):
    rules.named_shardings(_mesh(), {"w": ("width",)}, {"w": np.zeros(4)})


def test_constraints_lay_out_activations_where_there_is_a_mesh():
  axes = ("batch", "length", "mlp")
  x = np.ones((8, 3, 4), np.float32)
  assert rules.constrain(x, axes) is x
  with jax.set_mesh(_mesh()):
    placed = jax.jit(lambda x: rules.constrain(x, axes))(x)
    one_row = jax.jit(lambda x: rules.constrain(x, axes))(x[:1])
  # Without "expert", whose size is 1.
  assert placed.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
  assert placed.addressable_shards[0].data.shape == (2, 3, 2)
  assert one_row.addressable_shards[0].data.shape == (1, 3, 2)


def test_rows_are_split_along_their_length():
  mesh = _mesh(2, 1, 2, sequence=2)
  x, mask = np.ones((4, 6, 4), np.float32), np.ones((4, 6, 6), bool)
  with jax.set_mesh(mesh):
    assert rules.num_shards("length") == 2
    assert rules.num_shards("batch") == 2
    assert rules.num_shards("embed") == 1
    placed = jax.jit(
      lambda x, mask: (
        rules.constrain(x, ("batch", "length", "mlp")),
        rules.constrain(mask, ("batch", "length", "key_length")),
      )
    )(x, mask)
  assert rules.num_shards("length") == 1
  shapes = [of.addressable_shards[0].data.shape for of in placed]
  assert shapes == [(2, 3, 2), (2, 3, 6)]


def test_lengths_that_do_not_divide_are_told_what_would_fit():
  mesh = _mesh(1, 1, 2, sequence=4)
  rules.check_lengths({"decoder_input_tokens": 12}, mesh)
  with pytest.raises(ValueError, match="rows of 229 .* 4 shards .* use 232"):
    rules.check_lengths({"decoder_input_tokens": 229}, mesh)
  spec = PartitionSpec(rules.BATCH_AXES, "sequence")
  assert rules.tokens_sharding(mesh, (8, 12, 3)).spec == spec
  # Prompts of any length; the loss refuses such rows.
  rows = PartitionSpec(rules.BATCH_AXES)
  assert rules.tokens_sharding(mesh, (8, 13)).spec == rows
  assert rules.tokens_sharding(mesh, (8,)).spec == rows


def test_a_kernel_is_told_what_divides():
  with jax.set_mesh(_mesh(1, 2, 2, sequence=2)):
    found = rules.kernel_placement(4, 2, 6)
    assert found.pop("mesh").shape["sequence"] == 2
    assert found == {
      "batch_axes": rules.BATCH_AXES,
      "head_axis": "tensor",
      "length_axis": "sequence",
    }
    found = rules.kernel_placement(3, 3, 7)
    assert set(list(found.values())[1:]) == {(), None}

    def head_axes(num_heads):
      return rules.whole_row_placement(4, num_heads)["head_axes"]

    assert head_axes(4) == ("tensor", "sequence")
    assert head_axes(6) == ("tensor",)
    assert head_axes(3) == ()


def test_constraints_name_every_dimension():
  with jax.set_mesh(_mesh()):
    with pytest.raises(KeyError, match="width"):
      rules.constrain(np.ones(4), ("width",))
    with pytest.raises(ValueError, match="zip"):
      rules.constrain(np.ones((4, 4)), ("batch",))


@pytest.mark.parametrize(
  "shape, own, rows",
  [
    # Eight devices in the mesh's order; `own` are those of one process.
    ((8, 1, 1), range(4, 8), [8, 9, 10, 11, 12, 13, 14, 15]),
    ((2, 4, 1), [0, 1], [0, 1, 2, 3]),
    ((2, 2, 2), [2, 3], [4, 5, 6, 7]),
    # Tensor axis across processes: both hold the same rows.
    ((2, 1, 4), [0, 1], [0, 1, 2, 3, 4, 5, 6, 7]),
    ((2, 1, 4), [2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    ((1, 1, 8), [5], list(range(16))),
    # Rows that do not follow each other.
    ((8, 1, 1), [1, 6], [2, 3, 12, 13]),
    ((2, 2, 2), [0, 7], [0, 1, 2, 3, 12, 13, 14, 15]),
  ],
)
def test_a_process_holds_the_rows_of_its_devices(shape, own, rows):
  mesh = _mesh(*shape)
  devices = mesh.devices.flatten()
  assert rules.rows_of(mesh, 16, devices[list(own)]) == rows
  assert rules.local_rows(mesh, 16) == list(range(16))
  with pytest.raises(ValueError, match="not divisible"):
    rules.rows_of(_mesh(8, 1, 1), 12, devices[:1])
