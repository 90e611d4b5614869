import pytest

from kernels import ahead_of_time
from mlm.planning import chips


@pytest.mark.tpu
@pytest.mark.parametrize("chip", ahead_of_time.CHIPS, ids=lambda c: c.name)
def test_devices_of_topologies_have_a_known_peak(chip):
  pytest.importorskip("libtpu", reason="pip install libtpu")
  device = ahead_of_time.mesh(chip.topology, (1,), ("data",)).devices.flat[0]
  of_chip = chips.of_topology(chip.topology)
  found = chips.device_flops(device.device_kind)
  assert found == of_chip.flops / of_chip.devices


def test_peak_of_other_devices_is_not_guessed():
  assert chips.device_flops("cpu") is None
  # v5p by Google's page; a TPU7x chip is two devices to jax.
  assert chips.device_flops("TPU v5") == 4.59e14
  assert chips.device_flops("TPU7x") == 2.307e15 / 2
