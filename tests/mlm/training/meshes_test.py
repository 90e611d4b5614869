"""However devices share the work, twenty steps are those of one device."""

import functools
import pathlib

import numpy as np
import pytest

from tests import several_processes

job = several_processes.load(
  pathlib.Path(__file__).with_name("train_on_mesh.py")
)


@functools.cache
def _on_one_device(family):
  return job.train(family, job.mesh_of())


def _check(family, **sizes):
  """Float32 sums in another order: losses to 1e-5, relative."""
  want = np.array(_on_one_device(family))
  found = np.array(job.train(family, job.mesh_of(**sizes)))
  np.testing.assert_allclose(found[:, 0], want[:, 0], rtol=1e-5)
  np.testing.assert_allclose(found[:, 1], want[:, 1], rtol=1e-3)
  assert want[-1, 0] < want[0, 0]


@pytest.mark.parametrize(
  "family, sizes",
  [
    ("decoder", {"fsdp": 2, "sequence": 2, "tensor": 2}),
    ("moe", {"expert": 2, "sequence": 2, "tensor": 2}),
  ],
  ids=str,
)
def test_losses_are_those_of_one_device(family, sizes):
  _check(family, **sizes)


_MESHES = [
  {"data": 8},
  {"fsdp": 8},
  {"tensor": 8},
  {"sequence": 8},
  {"data": 2, "fsdp": 2, "tensor": 2},
  {"fsdp": 2, "sequence": 2, "tensor": 2},
  {"fsdp": 4, "sequence": 2},
]
_EXPERT_MESHES = [
  {"expert": 8},
  {"fsdp": 2, "expert": 2, "tensor": 2},
  {"fsdp": 2, "expert": 2, "sequence": 2},
  {"expert": 2, "sequence": 4},
]


@pytest.mark.slow
@pytest.mark.parametrize(
  "family, sizes",
  [
    *(
      (f, s) for f in sorted(job.FAMILIES.keys() - job.KERNELS) for s in _MESHES
    ),
    *((f, s) for f in job.KERNELS for s in _MESHES if "sequence" in s),
    *((f, s) for f in ("moe", "moe_with_capacity") for s in _EXPERT_MESHES),
  ],
  ids=str,
)
def test_losses_are_those_of_one_device_on_every_mesh(family, sizes):
  _check(family, **sizes)
