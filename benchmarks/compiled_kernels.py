"""What the compiler says of each kernel beside plain XLA: memory, FLOPs.

    pip install libtpu
    python -m benchmarks.compiled_kernels --output=DIR [--only=REGEX]
    python -m benchmarks.compiled_kernels --output=DIR --gpu_target=h200.txtpb

Needs no TPU. The second line is for a GPU that nobody has to own: it needs
jax-cuda13-plugin, jax-cuda13-pjrt, nvidia-cuda-nvcc and XLA's description of it
(xla/backends/gpu/target_config/specs in openxla/xla). Compiles forward and backward of every row for the named chip and
appends it to DIR/compiled.tsv, per device: arguments, temporaries and peak in
MiB, FLOPs (scans count once, so those of chunked versions say little), and the
seconds of compilation. A row that the compiler refuses says so.
"""

import argparse
import datetime
import functools
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels import ahead_of_time
from kernels.linear_cross_entropy import (
  api,
  chunked,
  pallas_tpu,
  reference,
  shapes,
  sharded,
)
from kernels.relative_attention import chunked as chunked_attention
from kernels.relative_attention import pallas_tpu as pallas_attention
from kernels.relative_attention import reference as plain_attention
from kernels.relative_attention import shapes as attention_shapes

_WHOLE = ahead_of_time.PartitionSpec()


class Row(NamedTuple):
  """A program to compile, and what its figures are counted against."""

  name: str
  function: Callable
  arguments: list
  mesh: ahead_of_time.Mesh


def _head_versions(chip: ahead_of_time.Chip) -> dict[str, Callable]:
  plain = {"soft_cap": None, "with_entropy": False}
  pallas = functools.partial(
    pallas_tpu.token_statistics_on_chip,
    vmem_capacity_bytes=ahead_of_time.vmem_bytes(chip),
  )
  return {
    "plain": functools.partial(reference.token_statistics, **plain),
    "chunked": functools.partial(api.BACKENDS["chunked"], **plain),
    "pallas": functools.partial(pallas, **plain),
    "pallas, cap and entropy": functools.partial(
      pallas, soft_cap=30.0, with_entropy=True
    ),
  }


def _head_loss(function, hidden, kernel, targets):
  statistics = function(hidden, kernel, targets)
  loss = statistics.logsumexp - statistics.target_logit
  if statistics.entropy is not None:
    loss -= 1e-3 * statistics.entropy
  return jnp.mean(loss)


def _head_row(name, function, shape, mesh) -> Row:
  N, D, V = shape.num_tokens, shape.width, shape.vocab_size
  return Row(
    name,
    jax.value_and_grad(functools.partial(_head_loss, function), argnums=(0, 1)),
    [
      ((N, D), shape.dtype, _WHOLE),
      ((D, V), shape.dtype, _WHOLE),
      ((N,), "int32", _WHOLE),
    ],
    mesh,
  )


def _head_rows() -> Iterator[Row]:
  for chip in ahead_of_time.CHIPS:
    versions = _head_versions(chip)
    for shape in (shapes.LLAMA_70B, shapes.DENSE_200B):
      names = list(versions)
      if chip != ahead_of_time.V5P or shape != shapes.LLAMA_70B:
        names = ["pallas"]
      for name in names:
        yield _head_row(
          f"head {shape.name}, {chip.name}, {name}",
          versions[name],
          shape,
          ahead_of_time.mesh(chip.topology, (1,), ("data",)),
        )
  shape = shapes.LLAMA_70B
  N, D, V = 2 * shape.num_tokens, shape.width, shape.vocab_size
  P = ahead_of_time.PartitionSpec
  mesh = ahead_of_time.mesh("v5p:2x2x4", (2, 8), ("data", "tensor"))
  versions = _head_versions(ahead_of_time.V5P)
  of_mesh = functools.partial(
    sharded.token_statistics,
    of_shard=versions["pallas"],
    mesh=mesh,
    token_axes=("data",),
    length_axis=None,
    vocab_axis="tensor",
  )
  for name, function in (("plain", versions["plain"]), ("pallas", of_mesh)):
    yield Row(
      f"head {shape.name}, v5p data 2 x tensor 8, {name}",
      jax.value_and_grad(
        functools.partial(_head_loss, function), argnums=(0, 1)
      ),
      [
        ((N, D), shape.dtype, P("data")),
        ((D, V), shape.dtype, P(None, "tensor")),
        ((N,), "int32", P("data")),
      ],
      mesh,
    )


def _attention_loss(
  function, is_causal, heads, query, key, value, table, segments
):
  """Operands come side by side, as the projections before them give them."""
  output = function(
    *(x.reshape(*x.shape[:2], *heads) for x in (query, key, value)),
    table,
    segments,
    segments,
    max_distance=attention_shapes.MAX_DISTANCE,
    is_causal=is_causal,
  ).reshape(query.shape)
  return jnp.sum(output * jnp.cos(output), dtype=jnp.float32)


def _attention_rows() -> Iterator[Row]:
  chunk = chunked_attention.CHUNK_QUERIES
  for chip in ahead_of_time.CHIPS:
    versions = {
      "pallas": functools.partial(
        pallas_attention.relative_attention_on_chip,
        vmem_capacity_bytes=ahead_of_time.vmem_bytes(chip),
      ),
      "plain": plain_attention.relative_attention,
      "chunked": functools.partial(
        chunked_attention.relative_attention, chunk_queries=chunk
      ),
    }
    for shape in (
      attention_shapes.MT5_XXL_LONG,
      attention_shapes.MT5_XXL_CAUSAL,
    ):
      is_first = (chip, shape) == (
        ahead_of_time.V5P,
        attention_shapes.MT5_XXL_LONG,
      )
      for name in versions if is_first else ("pallas",):
        B, T, N, H = shape[1:5]
        yield Row(
          f"attention {shape.name}, {chip.name}, {name}",
          jax.value_and_grad(
            functools.partial(
              _attention_loss, versions[name], shape.is_causal, (N, H)
            ),
            argnums=(0, 1, 2, 3),
          ),
          [
            *[((B, T, N * H), shape.dtype, _WHOLE)] * 3,
            ((N, attention_shapes.NUM_BUCKETS), "float32", _WHOLE),
            ((B, T), "int32", _WHOLE),
          ],
          ahead_of_time.mesh(chip.topology, (1,), ("data",)),
        )


def _gpu_rows(target_config: str) -> Iterator[Row]:
  plain = {"soft_cap": None, "with_entropy": False}
  versions = {
    "plain": functools.partial(reference.token_statistics, **plain),
    **{
      f"chunked, {tokens} tokens": functools.partial(
        chunked.token_statistics, chunk_tokens=tokens, **plain
      )
      for tokens in (512, 1024, 2048)
    },
  }
  mesh = ahead_of_time.gpu_mesh(target_config)
  kind = mesh.devices.item().device_kind
  for name, function in versions.items():
    yield _head_row(f"head, {kind}, {name}", function, shapes.LLAMA_8B, mesh)


def rows() -> Iterator[Row]:
  """Every program of the table for TPUs."""
  yield from _head_rows()
  yield from _attention_rows()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--gpu_target", type=pathlib.Path)
  parser.add_argument("--only", type=re.compile, default=re.compile(""))
  options = parser.parse_args()
  options.output.mkdir(parents=True, exist_ok=True)
  path = options.output / "compiled.tsv"
  header = "date\tmachine\tprogram\targuments_mib\ttemporaries_mib\tpeak_mib"
  if not path.exists():
    path.write_text(f"{header}\tgflops\tcompile_seconds\n", encoding="utf-8")
  found = rows()
  if options.gpu_target:
    found = _gpu_rows(options.gpu_target.read_text(encoding="utf-8"))
  for row in found:
    if not options.only.search(row.name):
      continue
    started = time.monotonic()
    try:
      needs = ahead_of_time.compile_for(
        row.function,
        *row.arguments,
        mesh=row.mesh,
      )
      figures = [
        *(f"{n / 2**20:.2f}" for n in needs[:3]),
        f"{needs.flops / 1e9:.0f}",
      ]
    except jax.errors.JaxRuntimeError as error:
      figures = ["refused", str(error).splitlines()[0][:200], "", ""]
    line = [
      datetime.date.today().isoformat(),
      f"{platform.machine()}, jax {jax.__version__}",
      row.name,
      *figures,
      f"{time.monotonic() - started:.0f}",
    ]
    print(*line[2:], sep="  ", flush=True)
    with path.open("a", encoding="utf-8") as table:
      print(*line, sep="\t", file=table)


if __name__ == "__main__":
  main()
