"""Eight virtual CPU devices for every test; set before jax is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # Compiling is most of the time of such small programs.
    "--xla_backend_optimization_level=0",
    # On busy cores the eight may wait longer for each other than the 40 s
    # after which XLA ends the process.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
  ]
).strip()
# XLA has as many threads as devices, and a thread that waits in a collective
# does nothing else. Devices take independent collectives of a program in any
# order, so eight threads may all wait for what no thread is left to start.
os.environ["NPROC"] = "32"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# cld3 crashes the process when it is loaded after TensorFlow (both bring their
# own protobuf), so it comes first whatever the order of the tests.
import gcld3  # noqa: F401
