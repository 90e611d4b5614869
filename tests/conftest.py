"""Eight virtual CPU devices for every test; set before jax is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # On busy cores the eight may wait longer for each other than the 40 s
    # after which XLA ends the process.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
  ]
).strip()
# One program at a time: two at once on eight devices of two cores, as a rollout
# and the step before it, may each hold threads that the other's collectives need.
os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# cld3 crashes the process when it is loaded after TensorFlow (both bring their
# own protobuf), so it comes first whatever the order of the tests.
import gcld3  # noqa: F401
