"""Programs find the mesh of their arguments; ahead of time too."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules


def _placed(**sizes):
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, **sizes})
  batch = {"rows": np.ones((8, 4), np.float32)}
  return mesh, jax.device_put(batch, rules.batch_sharding(mesh))


def test_a_program_is_traced_with_the_mesh_of_its_arguments_in_context():
  seen = []

  @mesh_lib.jit
  def double(scale, batch):
    """Doubles."""
    seen.append(jax.sharding.get_abstract_mesh())
    return rules.constrain(scale * batch["rows"], ("batch", "mlp"))

  mesh, batch = _placed(data=4, tensor=2)
  result = double(np.float32(2), batch)
  assert seen == [mesh.abstract_mesh]
  assert result.addressable_shards[0].data.shape == (2, 2)
  assert jax.sharding.get_abstract_mesh().empty
  # Another mesh is another program; the same is not traced again.
  other, elsewhere = _placed(fsdp=8)
  double(np.float32(2), elsewhere)
  double(np.float32(3), batch)
  assert seen == [mesh.abstract_mesh, other.abstract_mesh]
  assert double.__doc__ == "Doubles."


def test_arguments_on_no_mesh_leave_the_context_empty():
  is_empty = mesh_lib.jit(lambda x: jax.sharding.get_abstract_mesh().empty + 0)
  assert is_empty(np.ones(3)) == 1


def test_abstract_arguments_are_lowered_with_their_mesh_in_context():
  seen = []

  def observe(x):
    seen.append(dict(jax.sharding.get_abstract_mesh().shape))
    return x

  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 2, "expert": 2, "tensor": 2})
  sharding = NamedSharding(mesh, PartitionSpec("expert"))
  x = jax.ShapeDtypeStruct((4,), np.float32, sharding=sharding)
  lowered = mesh_lib.jit(observe, donate_argnums=0).lower(x)
  assert seen == [dict(mesh.shape)]
  assert lowered.compile().input_shardings[0][0].is_equivalent_to(sharding, 1)
