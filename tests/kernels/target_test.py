"""The platform of a program, and what its backends may be."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from kernels import target
from kernels.causal_attention import api as causal_attention
from kernels.grouped_matmul import api as grouped_matmul
from kernels.linear_cross_entropy import api as linear_cross_entropy
from kernels.paged_attention import api as paged_attention
from kernels.relative_attention import api as relative_attention


def _mesh(platform, kind):
  return AbstractMesh(
    (4,),
    ("data",),
    (AxisType.Auto,),
    abstract_device=AbstractDevice(
      device_kind=kind, num_cores=1, platform=platform
    ),
  )


def _defaults():
  return (
    causal_attention.default_backend("bfloat16"),
    relative_attention.default_backend(),
    linear_cross_entropy.default_backend(),
    grouped_matmul.default_backend(),
    paged_attention.default_backend(),
  )


def test_the_mesh_in_context_tells_the_platform_and_its_backends():
  assert target.platform() == "cpu"
  plain = ("reference", "chunked", "chunked", "ragged", "reference")
  assert _defaults() == plain
  with jax.sharding.use_abstract_mesh(_mesh("tpu", "TPU v5")):
    assert target.platform() == "tpu"
    assert _defaults() == (
      "splash_tpu",
      "pallas_tpu",
      "pallas_tpu",
      "megablox_tpu",
      "ragged_tpu",
    )
  with jax.sharding.use_abstract_mesh(_mesh("gpu", "NVIDIA H100")):
    assert _defaults() == ("cudnn_gpu", *plain[1:])
    assert causal_attention.default_backend("float32") == "reference"


def test_a_backend_of_another_platform_is_refused():
  known = ("reference", "magic_tpu", "magic_gpu")
  for backend in ("magic_tpu", "magic_gpu"):
    with pytest.raises(ValueError, match="for 'cpu'; choose 'reference'"):
      target.check(backend, known=known, otherwise="reference")
  with jax.sharding.use_abstract_mesh(_mesh("tpu", "TPU v5")):
    target.check("magic_tpu", known=known, otherwise="reference")
    with pytest.raises(ValueError, match="needs a GPU .* for 'tpu'"):
      target.check("magic_gpu", known=known, otherwise="reference")
  with pytest.raises(ValueError, match="choose one of reference, magic_tpu"):
    target.check("magic", known=known, otherwise="reference")
