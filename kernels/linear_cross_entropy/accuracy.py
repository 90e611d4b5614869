"""Errors of the kernel's gradient for frequent and for rare tokens.

  python -m kernels.linear_cross_entropy.accuracy

Targets are drawn by Zipf's law, as pieces of a vocabulary are; columns of the
gradient fall into bands by how often their token is a target of the batch. A
band's error is its relative L2 distance from float64, worst of the columns in
parentheses. The last rows add blocks of tokens up in bfloat16, as a one-pass
backward without a float32 buffer in HBM would: the reason why ours does not.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kernels.linear_cross_entropy import (
  blocks,
  chunked,
  pallas_tpu,
  reference,
)

BANDS = ((0, 0), (1, 1), (2, 9), (10, 99), (100, 10**9))
_PLAIN = {"soft_cap": None, "with_entropy": False}


def inputs(
  *, num_tokens: int, width: int, vocab_size: int, dtype: str, seed: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Hidden, kernel and targets of a model that knows the tokens' frequencies.

  Targets are drawn with p[v] proportional to 1 / (v + 1); hidden has a constant
  feature with which the kernel gives log p, and noise in the others.
  """
  rng = np.random.default_rng(seed)
  frequencies = 1 / np.arange(1, vocab_size + 1)
  frequencies /= frequencies.sum()
  hidden = rng.normal(size=(num_tokens, width))
  kernel = rng.normal(size=(width, vocab_size)) / width**0.5
  hidden[:, 0], kernel[0] = 4.0, np.log(frequencies) / 4
  targets = rng.choice(vocab_size, num_tokens, p=frequencies)
  return (
    jnp.asarray(hidden, dtype),
    jnp.asarray(kernel, dtype),
    jnp.asarray(targets, jnp.int32),
  )


def kernel_gradient(
  function: Callable, hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> jax.Array:
  """[D, V], of the mean negative log-likelihood, in the dtype of kernel."""

  def loss(kernel):
    statistics = function(hidden, kernel, targets, **_PLAIN)
    return jnp.mean(statistics.logsumexp - statistics.target_logit)

  return jax.jit(jax.grad(loss))(kernel)


def exact_gradient(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array
) -> np.ndarray:
  """The same in float64, of the inputs as they were rounded."""
  hidden, kernel = (np.asarray(x, np.float64) for x in (hidden, kernel))
  logits = hidden @ kernel
  gradient = np.exp(logits - logits.max(axis=1, keepdims=True))
  gradient /= gradient.sum(axis=1, keepdims=True)
  gradient[np.arange(len(targets)), targets] -= 1
  return hidden.T @ gradient / len(targets)


def in_bfloat16(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array, *, held: int
) -> jax.Array:
  """The gradient with blocks of `held` tokens added up in bfloat16."""
  num_blocks = len(targets) // held
  total = jnp.zeros(kernel.shape, jnp.bfloat16)
  for start in range(0, len(targets), held):
    block = slice(start, start + held)
    total += kernel_gradient(
      reference.token_statistics,
      hidden[block],
      kernel.astype(jnp.float32),
      targets[block],
    ).astype(jnp.bfloat16) / jnp.bfloat16(num_blocks)
  return total


def errors_by_band(
  gradient: jax.Array, exact: np.ndarray, targets: jax.Array
) -> list[tuple[int, float, float]]:
  """Of each band: columns, relative L2 error, and that of the worst column."""
  counts = np.bincount(targets, minlength=exact.shape[1])
  error = np.asarray(gradient, np.float64) - exact
  found = []
  for low, high in BANDS:
    band = (counts >= low) & (counts <= high)
    norms = [np.linalg.norm(x[:, band], axis=0) for x in (error, exact)]
    found.append(
      (
        int(band.sum()),
        float(np.linalg.norm(norms[0]) / np.linalg.norm(norms[1])),
        float((norms[0] / norms[1]).max()),
      )
    )
  return found


def backends() -> dict[str, Callable]:
  """Every one that runs here; the TPU kernels emulated, in small tiles."""
  tiles = blocks.Blocks(tokens=256, vocab=512, held=256, streamed=256)
  return {
    "reference": reference.token_statistics,
    "chunked": functools.partial(chunked.token_statistics, chunk_tokens=256),
    "pallas_tpu": functools.partial(
      pallas_tpu.token_statistics,
      blocks=tiles,
      vmem_limit_bytes=1 << 26,
      interpret=True,
    ),
  }


def main():
  heads = [f"{a}" if a == b else f"{a} to {b}" for a, b in BANDS[:-1]]
  print(
    "| targets in the batch |", " | ".join([*heads, f"{BANDS[-1][0]} on |"])
  )
  for dtype in ("float32", "bfloat16"):
    operands = inputs(
      num_tokens=4096, width=128, vocab_size=4096, dtype=dtype, seed=0
    )
    exact = exact_gradient(*operands)
    functions = {
      name: functools.partial(kernel_gradient, function)
      for name, function in backends().items()
    }
    if dtype == "bfloat16":
      for held in (1024, 512, 256):
        functions[f"{4096 // held} sums in bfloat16"] = functools.partial(
          in_bfloat16, held=held
        )
    for name, function in functions.items():
      bands = errors_by_band(function(*operands), exact, operands[2])
      cells = [f"{error:.1e} ({worst:.1e})" for _, error, worst in bands]
      print(f"| {name}, {dtype} |", " | ".join(cells), "|", flush=True)
  print("| columns |", " | ".join(str(n) for n, _, _ in bands), "|")


if __name__ == "__main__":
  main()
