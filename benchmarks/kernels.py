"""Seconds and memory of the kernels' backends beside torch, forward and backward.

    taskset -c 0 python -m benchmarks.kernels --case=head --peer_python=PEER

head: the mean cross-entropy of a linear head over a large vocabulary, and its
gradients. relative_attention: attention with T5's bias, and the gradients of its
table too. causal_attention: packed rows under segments. Same numbers for all
sides, float32; every side must give the same value. Each side runs in a process
of its own, in turn; compilation and a first call apart, then --calls calls. Memory
is the most that the process held in a call, above its inputs (Linux). PEER is the
Python of an environment with torch; it runs this file with -P, since names of
files here are names of packages there. Prints medians as JSON, each with its
smallest and largest. On an accelerator see the bench of each kernel's folder.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

# Tokens, width, vocabulary; rows, slots, heads, head width.
_SIZES = {
  "head": (512, 512, 262144),
  "relative_attention": (1, 2048, 6, 64),
  "causal_attention": (2, 2048, 8, 64),
}
_BUCKETS, _MAX_DISTANCE = 32, 128
_OURS = {
  "head": ("chunked", "reference"),
  "relative_attention": ("chunked", "reference"),
  "causal_attention": ("reference",),
}
_TOLERANCE = 1e-4  # relative, of the value


def _inputs(case: str) -> list[np.ndarray]:
  rng = np.random.default_rng(0)

  def normal(*shape, scale=1.0):
    return scale * rng.standard_normal(shape, np.float32)

  if case == "head":
    N, D, V = _SIZES[case]
    targets = rng.integers(0, V, N, np.int32)
    return [normal(N, D), normal(D, V, scale=D**-0.5), targets]
  B, T, N, H = _SIZES[case]
  query, key, value = (normal(B, T, N, H) for _ in range(3))
  segments = np.repeat(1 + np.arange(2, dtype=np.int32), T // 2)[None]
  segments = np.ascontiguousarray(np.broadcast_to(segments, (B, T)))
  if case == "causal_attention":
    return [query, key, value, segments]
  return [H**-0.5 * query, key, value, normal(N, _BUCKETS), segments]


def _ours(case: str, backend: str) -> Callable[[], float]:
  import jax
  import jax.numpy as jnp

  if case == "head":
    from kernels.linear_cross_entropy import api

    def value_of(hidden, kernel, targets):
      statistics = api.token_statistics(
        hidden, kernel, targets, backend=backend
      )
      return jnp.mean(statistics.logsumexp - statistics.target_logit)
  elif case == "relative_attention":
    from kernels.relative_attention import api

    def value_of(query, key, value, table, segments):
      output = api.relative_attention(
        query,
        key,
        value,
        table,
        segments,
        segments,
        max_distance=_MAX_DISTANCE,
        is_causal=False,
        backend=backend,
        mesh=None,
        batch_axes=(),
        head_axes=(),
      )
      return jnp.mean(output**2)
  else:
    from kernels.causal_attention import api

    def value_of(query, key, value, segments):
      output = api.causal_attention(
        query,
        key,
        value,
        segments,
        backend=backend,
        mesh=None,
        batch_axes=(),
        head_axis=None,
        length_axis=None,
      )
      return jnp.mean(output**2)

  inputs = [jnp.asarray(x) for x in _inputs(case)]
  floats = tuple(i for i, x in enumerate(inputs) if x.dtype == jnp.float32)
  gradient = jax.jit(jax.value_and_grad(value_of, argnums=floats))
  return lambda: float(jax.block_until_ready(gradient(*inputs))[0])


def _torch(case: str) -> Callable[[], float]:
  import torch

  torch.set_num_threads(1)
  inputs = [torch.from_numpy(x) for x in _inputs(case)]
  inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]

  def value_of_head(hidden, kernel, targets):
    return torch.nn.functional.cross_entropy(hidden @ kernel, targets.long())

  def attend(query, key, value, mask):
    output = torch.nn.functional.scaled_dot_product_attention(
      *(x.transpose(1, 2) for x in (query, key, value)), mask, scale=1.0
    )
    return (output**2).mean()

  def same(segments):
    return (segments[:, None, :, None] == segments[:, None, None, :]).detach()

  def value_of_relative(query, key, value, table, segments):
    slots = torch.arange(segments.shape[1])
    distance = slots[None] - slots[:, None]
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    far = exact + (
      torch.log(distance.abs().clamp(min=1) / exact)
      / math.log(_MAX_DISTANCE / exact)
      * (half - exact)
    ).long().clamp(max=half - 1 - exact)
    bucket = torch.where(distance.abs() < exact, distance.abs(), far)
    bucket = bucket + half * (distance > 0)
    bias = table[:, bucket][None].expand(len(segments), -1, -1, -1)
    bias = bias.masked_fill(~same(segments), -1e30)
    return attend(query, key, value, bias)

  def value_of_causal(query, key, value, segments):
    T = segments.shape[1]
    earlier = torch.ones(T, T, dtype=torch.bool).tril()
    scaled = query * query.shape[-1] ** -0.5
    return attend(scaled, key, value, same(segments) & earlier)

  value_of = {
    "head": value_of_head,
    "relative_attention": value_of_relative,
    "causal_attention": value_of_causal,
  }[case]

  def call():
    for x in inputs:
      x.grad = None
    value = value_of(*inputs)
    value.backward()
    return value.item()

  return call


def _resident(name: str) -> int:
  """Bytes of this process: "VmRSS" now, "VmHWM" at most since the reset."""
  with open("/proc/self/status") as f:
    return 1024 * next(int(x.split()[1]) for x in f if x.startswith(name))


def _time(options) -> None:
  """Prints the seconds of each call of a side, its memory and its value."""
  if options.side == "torch":
    call = _torch(options.case)
  else:
    call = _ours(options.case, options.side)
  before = _resident("VmRSS")
  value = call()
  with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # resets VmHWM
  seconds = []
  for _ in range(options.calls):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  memory = max(0, _resident("VmHWM") - before)
  print(json.dumps({"seconds": seconds, "memory": memory, "value": value}))


def _compare(options, arguments: list[str]) -> None:
  from benchmarks import in_turn  # not where the peer runs this file

  commands = {
    backend: [sys.executable, "-m", "benchmarks.kernels"]
    for backend in _OURS[options.case]
  }
  commands["torch"] = [options.peer_python, "-P", __file__]
  runs = in_turn.run(commands, arguments, rounds=options.rounds)
  values = {side: of_side[0]["value"] for side, of_side in runs.items()}
  for side, value in values.items():
    if not math.isclose(value, values["torch"], rel_tol=_TOLERANCE):
      raise RuntimeError(f"{side} computes something else: {values}")
  result = {"case": options.case, "sizes": _SIZES[options.case]}
  for side, of_side in runs.items():
    seconds = [second for run in of_side for second in run["seconds"]]
    found = statistics.median(seconds), min(seconds), max(seconds)
    memory = statistics.median(run["memory"] for run in of_side)
    result[side] = {
      "seconds": [round(x, 3) for x in found],
      "memory_mib": round(memory / 2**20),
    }
  print(json.dumps(result))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--case", choices=_SIZES, required=True)
  parser.add_argument("--peer_python")
  parser.add_argument("--calls", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--side", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.side:
    _time(options)
  else:
    _compare(options, sys.argv[1:])


if __name__ == "__main__":
  main()
