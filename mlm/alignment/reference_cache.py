"""The file of a reference model's log-probabilities, and what they hang on.

They are computed once, kept, and read again by runs with other settings of the
loss. A file whose key differs in any entry is refused: log-probabilities of
another model, tokenizer, prompt format or truncation would train in silence.
"""

import hashlib
import json
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm.data import prompts
from mlm.sharding import mesh as mesh_lib


def _sum_of_bits(array: jax.Array) -> jax.Array:
  """uint32 of an array's bits and their places; the same on every mesh.

  Sums of integers do not depend on their order, those of floats do.
  """
  unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
  weights = jnp.uint32(1)
  for axis in range(array.ndim):
    place = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    weights = (weights * jnp.uint32(2654435761)) ^ (place + jnp.uint32(axis))
  return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


def fingerprint(params: Any) -> str:
  """Hexadecimal digest of the values of params, by name; not cryptographic.

  A path and a step do not name a checkpoint: training again to the same step
  writes other values to the same place.

  Args:
    params: tree of arrays of 4 bytes an entry or fewer.
  """
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  sums = mesh_lib.jit(lambda arrays: [_sum_of_bits(a) for a in arrays])(
    [leaf for _, leaf in leaves]
  )
  told = [
    [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), int(total)]
    for (path, leaf), total in zip(leaves, sums)
  ]
  return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def key_of(
  pairs: Sequence[Mapping],
  *,
  params: Any,
  model: Mapping[str, Any],
  tokenizer_sha256: str,
  prompt_length: int,
  response_length: int,
) -> dict[str, Any]:
  """All that the log-probabilities of pairs depend on, as JSON has it.

  Args:
    pairs: preference records.
    params: of the reference.
    model: its configuration.
    tokenizer_sha256: of the tokenizer's model.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response; longer ones are cut.
  """
  # The format is asked of the code that applies it, so it cannot go stale.
  probe = types.SimpleNamespace(encode=lambda text: [text])
  texts = [[p["prompt"], p["chosen"], p["rejected"]] for p in pairs]
  return {
    "checkpoint": fingerprint(params),
    "model": json.loads(json.dumps(model)),
    "tokenizer_sha256": tokenizer_sha256,
    "prompt_format": [
      prompts.prompt_ids(probe, "prompt"),
      prompts.response_ids(probe, "response"),
    ],
    "prompt_length": prompt_length,
    "response_length": response_length,
    "pairs_sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
  }


def read(path: str, key: Mapping[str, Any]) -> np.ndarray | None:
  """The log-probabilities in a file, float32 [pairs, 2]; None without one.

  Raises:
    ValueError: if the file's key is another, with the entries that differ.
  """
  if not os.path.exists(path):
    return None
  with np.load(path) as stored:
    found, logprobs = json.loads(str(stored["key"])), stored["logprobs"]
  differing = [
    f"  {name}: the file has {found.get(name)}, needed {key.get(name)}"
    for name in sorted({*found, *key})
    if found.get(name) != key.get(name)
  ]
  if differing:
    raise ValueError(
      f"the log-probabilities in {path} are of another reference:\n"
      + "\n".join(differing)
      + "\ndelete the file to compute them again, or give another path"
    )
  return logprobs


def write(path: str, key: Mapping[str, Any], logprobs: np.ndarray) -> None:
  """Writes log-probabilities, float32 [pairs, 2], under their key."""
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  partial = f"{path}.partial"
  with open(partial, "wb") as f:
    np.savez(f, key=json.dumps(key), logprobs=logprobs)
  os.replace(partial, path)
