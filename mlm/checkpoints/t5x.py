"""Checkpoints of t5x, and our models, both ways.

Those of its networks T5 1.1, mT5 and umT5 are our encoder–decoders. A decoder,
which it trains by `mlm.t5x`, has our names in its checkpoints too.

Of the two formats of a folder checkpoint_<step>:

  legacy  checkpoint, a msgpack file of the tree with small arrays in it, and a
          zarr folder for each other array, target.encoder…kernel. Published
          checkpoints have it. Read and written.
  orbax   state, an OCDBT database of the same zarr arrays. Read.

The optimizer's state is neither read nor written. No file says what shape the
model has: of an encoder–decoder the arrays do, together with what t5x's networks
fix; a decoder's must be given.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from mlm.checkpoints import t5x_tables, tables
from mlm.models import decoder, encdec, families

_PARAMS = "target"
_VERSION = 3  # of the legacy format
_CHUNK_ELEMENTS = 2**24  # of a file that we write: 64 MiB of float32
# As t5x's networks have them; no array tells.
_FIXED = {"max_distance": 128, "norm_epsilon": 1e-6}


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
  """("a.b", leaf) of nested dicts; the description of a zarr array is one."""
  if isinstance(tree, Mapping) and "driver" not in tree:
    for name, child in tree.items():
      yield from _leaves(child, (*path, name))
  else:
    yield ".".join(path), tree


def _opened(kvstores: Mapping[str, dict]) -> dict[str, Any]:
  """{name: zarr array}, whose values stay where they are until they are used."""
  opening = {
    name: tensorstore.open(
      # A file that is gone must not be read as zeros.
      {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False},
      open=True,
      read=True,
    )
    for name, kvstore in kvstores.items()
  }
  return {name: future.result() for name, future in opening.items()}


def _read_legacy(folder: str) -> dict[str, Any]:
  with open(os.path.join(folder, "checkpoint"), "rb") as f:
    tree = ocp.msgpack_utils.msgpack_restore(f.read())
  tree = tree.get("optimizer", tree)
  inline, stored = {}, {}
  for name, leaf in _leaves(tree.get(_PARAMS, {}), (_PARAMS,)):
    if isinstance(leaf, np.ndarray):
      inline[name] = leaf
    else:
      stored[name] = {"driver": "file", "path": os.path.join(folder, name)}
  missing = [x for x in stored if not os.path.isdir(stored[x]["path"])]
  if missing:
    raise ValueError(
      f"{folder} lacks the folders {', '.join(missing)}, which its file "
      "checkpoint tells of; fetch it again"
    )
  return inline | _opened(stored)


def _read_orbax(folder: str) -> dict[str, Any]:
  base = {"driver": "file", "path": os.path.join(folder, "")}
  database = {"driver": "ocdbt", "base": base}
  keys = tensorstore.KvStore.open(database).result().list().result()
  names = [
    key.decode().removesuffix("/.zarray")
    for key in keys
    if key.startswith(f"{_PARAMS}.".encode()) and key.endswith(b"/.zarray")
  ]
  return _opened({name: {**database, "path": f"{name}/"} for name in names})


def is_checkpoint(folder: str) -> bool:
  """Whether a folder has the files of one of the two formats."""
  return any(
    os.path.exists(os.path.join(folder, *path))
    for path in (("checkpoint",), ("state", "manifest.ocdbt"))
  )


def read(folder: str) -> dict[str, Any]:
  """{name: array} of a checkpoint's params; values are read when used.

  Args:
    folder: checkpoint_<step> of t5x, on a local or mounted disk. Names are as
      in its programs: "encoder/layers_0/mlp/wo/kernel".

  Raises:
    FileNotFoundError: if it is not of one of the two formats.
    ValueError: if an array's folder is missing. Reading an array raises it too
      if one of its files is.
  """
  if not is_checkpoint(folder):
    raise FileNotFoundError(
      f"{folder} has neither a file checkpoint nor state/manifest.ocdbt; give "
      "the folder checkpoint_<step> that t5x wrote"
    )
  if os.path.exists(os.path.join(folder, "checkpoint")):
    found = _read_legacy(folder)
  else:
    found = _read_orbax(os.path.join(folder, "state"))
  return {
    name.removeprefix(f"{_PARAMS}.").replace(".", "/"): array
    for name, array in found.items()
  }


def _is_scanned(names: Any) -> bool:
  prefix = t5x_tables.layers_of("encoder", is_scanned=True)
  return any(name.startswith(f"{prefix}/") for name in names)


def read_config(
  tensors: Mapping[str, Any], *, activation_dtype: str, remat: str
) -> encdec.EncoderDecoderConfig:
  """Our configuration of their arrays' names and shapes.

  Args:
    tensors: of `read`.
    activation_dtype: of ours.
    remat: of ours.

  Raises:
    ValueError: if the arrays that tell the shape are missing.
  """
  is_scanned = _is_scanned(tensors)
  is_shared = "encoder/relpos_bias/rel_embedding" in tensors
  first = t5x_tables.layers_of("encoder", is_scanned=is_scanned).format(0)
  biases = "encoder" if is_shared else first
  names = {
    "embedding": "token_embedder/embedding",
    "biases": f"{biases}/relpos_bias/rel_embedding",
    "query": f"{first}/attention/query/kernel",
    "gate": f"{first}/mlp/wi_0/kernel",
    "decoder": f"{first}/mlp/wi_0/kernel".replace("encoder", "decoder"),
  }
  missing = [name for name in names.values() if name not in tensors]
  if missing:
    raise ValueError(
      f"no network of t5x's T5, mT5 or umT5: missing {', '.join(missing)}; "
      f"found {', '.join(sorted(tensors)[:5])}, …"
    )
  shape = {name: tensors[theirs].shape for name, theirs in names.items()}

  def num_layers(stack):
    layers = t5x_tables.layers_of(stack, is_scanned=is_scanned)
    if is_scanned:
      return tensors[f"{layers}/mlp/wi_0/kernel"].shape[1]
    found = (re.match(layers.format(r"(\d+)") + "/", name) for name in tensors)
    return 1 + max((int(x[1]) for x in found if x), default=0)

  num_heads = shape["biases"][0]
  return encdec.EncoderDecoderConfig(
    vocab_size=shape["embedding"][0],
    num_encoder_layers=num_layers("encoder"),
    num_decoder_layers=num_layers("decoder"),
    d_model=shape["embedding"][1],
    d_ff=shape["gate"][-1],
    num_heads=num_heads,
    head_dim=shape["query"][-1] // (num_heads if is_shared else 1),
    num_buckets=shape["biases"][-1],
    relative_bias="stack" if is_shared else "layer",
    activation_dtype=activation_dtype,
    remat=remat,
    **_FIXED,
  )


def _abstract(config: families.Config) -> Any:
  return jax.eval_shape(families.build(config).init, jax.random.key(0))


def _rows(
  config: families.Config, *, is_scanned: bool
) -> tuple[tables.Row, ...]:
  if isinstance(config, decoder.DecoderConfig):
    return t5x_tables.own_rows(tables.flat(_abstract(config)))
  return t5x_tables.rows(
    is_scanned=is_scanned, relative_bias=config.relative_bias
  )


def _is_written_scanned(config: families.Config) -> bool:
  return getattr(config, "relative_bias", None) == "layer"


def shapes(
  config: families.Config, *, is_scanned: bool
) -> dict[str, tuple[int, ...]]:
  """{name: shape} of all their params of a configuration."""
  rows = _rows(config, is_scanned=is_scanned)
  return tables.shapes(rows, _abstract(config))


def traced_from_t5x(config: families.Config, params: Any) -> Any:
  """Our params of t5x's tree, within a program that jax traces."""
  rows = _rows(config, is_scanned=_is_written_scanned(config))
  return tables.traced_read(rows, _abstract(config), tables.flat(params))


def traced_to_t5x(config: families.Config, params: Any) -> dict[str, Any]:
  """t5x's tree of our params, within a program that jax traces."""
  rows = _rows(config, is_scanned=_is_written_scanned(config))
  return tables.nested(tables.traced_write(rows, params))


def from_t5x(
  config: families.Config,
  tensors: Mapping[str, Any],
  *,
  shardings: Any,
) -> Any:
  """Our params, float32, of their arrays.

  Args:
    config: of `read_config`, or a decoder's.
    tensors: of `read`, of scanned layers or of each.
    shardings: tree like params of where each is to live.

  Raises:
    ValueError: with a line for every name that is missing or unexpected, and
      every wrong shape.
  """
  is_scanned = _is_scanned(tensors)
  problems = tables.problems(
    tensors, shapes(config, is_scanned=is_scanned), optional=()
  )
  if problems:
    kind = "decoder" if isinstance(config, decoder.DecoderConfig) else "T5"
    raise ValueError(
      f"the arrays are not those of a {kind} of this shape:\n  "
      + "\n  ".join(problems)
      + "\nof t5x's networks, those with gated GELU and an output matrix of "
      "their own are here, and our decoders"
    )
  rows = _rows(config, is_scanned=is_scanned)
  return tables.read(rows, _abstract(config), tensors, shardings=shardings)


def check_fixed(config: encdec.EncoderDecoderConfig) -> None:
  """Raises ValueError if t5x's networks lack what the configuration has."""
  needed = {**_FIXED, "num_buckets": 32}
  found = {name: getattr(config, name) for name in needed}
  if found != needed:
    raise ValueError(
      f"the model has {found}, t5x's networks {needed}, and none of their files "
      "would tell; change the model, or use another format"
    )


def write(
  folder: str,
  config: families.Config,
  params: Mapping[str, Any],
  *,
  dtype: str,
) -> None:
  """Writes params in the legacy format, one array at a time, at step 0.

  Layers are apart for mT5, as examples/t5 has them, and scanned for umT5, as
  scalable_t5 does; a decoder's are as ours.

  Args:
    folder: checkpoint_0, made if missing.
    config: of the params.
    params: ours.
    dtype: to store, "float32" or "bfloat16".

  Raises:
    ValueError: if t5x's networks lack what the configuration has.
  """
  if isinstance(config, encdec.EncoderDecoderConfig):
    check_fixed(config)
  rows = _rows(config, is_scanned=_is_written_scanned(config))
  os.makedirs(folder, exist_ok=True)
  target: dict[str, Any] = {}
  for name, array in tables.write(rows, params):
    *parents, last = name.split("/")
    of_row = max(1, array.size // array.shape[0])
    spec = {
      "driver": "zarr",
      "dtype": dtype,
      "kvstore": {
        "driver": "file",
        "path": ".".join((_PARAMS, *parents, last)),
      },
      "metadata": {
        "shape": list(array.shape),
        "chunks": [
          min(array.shape[0], max(1, _CHUNK_ELEMENTS // of_row)),
          *array.shape[1:],
        ],
        "compressor": {"id": "gzip", "level": 1},
      },
    }
    path = os.path.join(folder, spec["kvstore"]["path"])
    store = tensorstore.open(
      {**spec, "kvstore": {"driver": "file", "path": path}},
      create=True,
      delete_existing=True,
    ).result()
    store.write(array.astype(jnp.dtype(dtype))).result()
    inner = target
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = spec
  tree = {"state": {"step": np.int32(0)}, _PARAMS: target}
  # Last: without it the folder is no checkpoint.
  with open(os.path.join(folder, "checkpoint"), "wb") as f:
    f.write(
      ocp.msgpack_utils.msgpack_serialize(
        {"version": _VERSION, "optimizer": tree}
      )
    )
