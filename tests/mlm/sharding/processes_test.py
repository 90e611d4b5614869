"""What the environment must say, told before anything waits for anybody."""

import jax
import pytest

from mlm.sharding import mesh as mesh_lib
from mlm.sharding import processes

WHOLE = dict(zip(processes.VARIABLES, ("host:1234", "4", "2")))


@pytest.fixture
def joined(monkeypatch):
  calls = []
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda *a, **k: calls.append((a, k))
  )
  return calls


def test_the_environment_says_who_this_is(joined):
  processes.start(environment=WHOLE, heartbeat_seconds=20)
  assert joined == [
    (
      ("host:1234",),
      {
        "num_processes": 4,
        "process_id": 2,
        "heartbeat_timeout_seconds": 20,
        "shutdown_timeout_seconds": 20,
      },
    )
  ]


def test_without_a_word_of_it_jax_finds_out(joined, monkeypatch):
  processes.start(environment={"PATH": "/bin"}, heartbeat_seconds=20)
  assert "process_id" not in joined[0][1]

  def refuse(**options):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", refuse)
  with pytest.raises(RuntimeError, match="not found .* set JAX_COORDINATOR"):
    processes.start(environment={}, heartbeat_seconds=20)


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"JAX_PROCESS_ID": None}, "each process needs all"),
    ({"JAX_NUM_PROCESSES": "four"}, "each process needs all"),
    ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID 4 is not below .* 4"),
  ],
)
def test_half_an_environment_is_refused(joined, changed, message):
  given = {k: v for k, v in {**WHOLE, **changed}.items() if v is not None}
  with pytest.raises(ValueError, match=message):
    processes.start(environment=given, heartbeat_seconds=20)
  assert not joined


def test_no_mesh_is_made_of_devices_of_processes_that_never_joined(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 16)
  with pytest.raises(RuntimeError, match="one of 16 processes.*--distributed"):
    mesh_lib.make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
