"""Reading and writing folders of safetensors files, one tensor at a time.

A file is 8 bytes of header length, a JSON header of name -> dtype, shape and
offsets, and the values. A folder holds model.safetensors, or several files and
model.safetensors.index.json, which says where each name lies.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {"float32": "F32", "bfloat16": "BF16"}
_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def _read_file(path: str) -> dict[str, np.ndarray]:
  size = os.path.getsize(path)
  with open(path, "rb") as f:
    start = f.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length + 8 > size:
      raise ValueError(f"{path} is cut off in its header; fetch it again")
    header = json.loads(f.read(length))
  header.pop("__metadata__", None)
  end = (
    8 + length + max((x["data_offsets"][1] for x in header.values()), default=0)
  )
  if end != size:
    raise ValueError(
      f"{path} has {size} bytes, its header tells of {end}; fetch it again"
    )
  tensors = {}
  for name, entry in header.items():
    if entry["dtype"] not in _DTYPES:
      raise ValueError(
        f"{path}: {name} is {entry['dtype']}; readable: {', '.join(_DTYPES)}"
      )
    tensors[name] = np.memmap(
      path,
      _DTYPES[entry["dtype"]],
      "r",
      offset=8 + length + entry["data_offsets"][0],
      shape=tuple(entry["shape"]),
    )
  return tensors


def read(folder: str) -> dict[str, np.ndarray]:
  """{name: array} of a folder; values stay on the disk until they are used.

  Raises:
    FileNotFoundError: if there is no such file in the folder, or its index names
      others that are missing.
    ValueError: if a file is cut off, or holds other than floats.
  """
  index = os.path.join(folder, _INDEX)
  if os.path.exists(index):
    with open(index) as f:
      files = sorted(set(json.load(f)["weight_map"].values()))
    missing = [x for x in files if not os.path.exists(os.path.join(folder, x))]
    if missing:
      raise FileNotFoundError(
        f"{folder} lacks {', '.join(missing)}, {len(missing)} of the "
        f"{len(files)} files of its {_INDEX}; fetch them"
      )
  elif os.path.exists(os.path.join(folder, _FILE)):
    files = [_FILE]
  else:
    raise FileNotFoundError(
      f"{folder} has neither {_FILE} nor {_INDEX}; other formats, such as "
      "pytorch_model.bin, must be converted first"
    )
  return {
    name: tensor
    for file in files
    for name, tensor in _read_file(os.path.join(folder, file)).items()
  }


def _shards(
  shapes: Mapping[str, tuple[int, ...]], itemsize: int, shard_bytes: int
) -> list[list[str]]:
  """Names in order, in groups of at most shard_bytes, or of one tensor."""
  shards, filled = [[]], 0
  for name, shape in shapes.items():
    size = itemsize * math.prod(shape)
    if shards[-1] and filled + size > shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  return shards


def write(
  folder: str,
  tensors: Iterable[tuple[str, np.ndarray]],
  *,
  shapes: Mapping[str, tuple[int, ...]],
  dtype: str,
  shard_bytes: int,
) -> None:
  """Writes tensors as they come; only one is in memory.

  Args:
    folder: made if missing.
    tensors: (name, array) in the order of shapes.
    shapes: name -> shape of all of them.
    dtype: to store, "float32" or "bfloat16".
    shard_bytes: largest file, unless one tensor is larger.

  Raises:
    ValueError: if dtype is another one.
  """
  if dtype not in _NAMES:
    raise ValueError(f"dtype {dtype!r}: choose {', '.join(_NAMES)}")
  stored = _DTYPES[_NAMES[dtype]]
  os.makedirs(folder, exist_ok=True)
  shards = _shards(shapes, stored.itemsize, shard_bytes)
  tensors, weight_map, total = iter(tensors), {}, 0
  for i, names in enumerate(shards):
    file = _FILE
    if len(shards) > 1:
      file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
      end = offset + stored.itemsize * math.prod(shapes[name])
      header[name] = {
        "dtype": _NAMES[dtype],
        "shape": list(shapes[name]),
        "data_offsets": [offset, end],
      }
      offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values start aligned
    with open(os.path.join(folder, file), "wb") as f:
      f.write(struct.pack("<Q", len(text)) + text)
      for expected in names:
        name, tensor = next(tensors)
        assert (name, tensor.shape) == (expected, tuple(shapes[expected]))
        f.write(np.ascontiguousarray(tensor.astype(stored)).tobytes())
    weight_map.update(dict.fromkeys(names, file))
    total += offset
  if len(shards) > 1:
    with open(os.path.join(folder, _INDEX), "w") as f:
      json.dump(
        {"metadata": {"total_size": total}, "weight_map": weight_map}, f
      )
