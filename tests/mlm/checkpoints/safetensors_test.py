"""Safetensors files: bytes as specified, shards, and refusals."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from mlm.checkpoints import safetensors

TENSORS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b.c": np.float32([1.0, -2.5]),
  "d": np.ones((4, 5), np.float32),
}
SHAPES = {name: x.shape for name, x in TENSORS.items()}


def _write(folder, dtype="float32", shard_bytes=10**6):
  safetensors.write(
    str(folder),
    TENSORS.items(),
    shapes=SHAPES,
    dtype=dtype,
    shard_bytes=shard_bytes,
  )


def test_a_file_written_by_hand_is_read(tmp_path):
  """From the format's description: length, header, little-endian values."""
  header = json.dumps(
    {
      "x": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
      "y": {"dtype": "BF16", "shape": [1, 1], "data_offsets": [4, 6]},
    }
  ).encode()
  values = struct.pack("<ee", 0.5, -2) + b"\x80\x3f"  # 1.0, the upper half
  (tmp_path / "model.safetensors").write_bytes(
    struct.pack("<Q", len(header)) + header + values
  )
  tensors = safetensors.read(str(tmp_path))
  np.testing.assert_array_equal(tensors["x"], np.float16([0.5, -2]))
  np.testing.assert_array_equal(np.float32(tensors["y"]), [[1]])


def test_a_file_written_by_us_is_as_specified(tmp_path):
  _write(tmp_path)
  content = (tmp_path / "model.safetensors").read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  header = json.loads(content[8 : 8 + length])
  assert length % 8 == 0
  assert header["__metadata__"] == {"format": "pt"}
  assert header["b.c"] == {
    "dtype": "F32",
    "shape": [2],
    "data_offsets": [24, 32],
  }
  assert content[8 + length + 24 :][:8] == struct.pack("<ff", 1.0, -2.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [1, 40, 10**6])
def test_shards_hold_everything_once(tmp_path, dtype, shard_bytes):
  _write(tmp_path, dtype, shard_bytes)
  tensors = safetensors.read(str(tmp_path))
  assert list(tensors) == list(TENSORS)
  for name, tensor in TENSORS.items():
    assert tensors[name].dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.float32(tensors[name]), tensor)
  files = list(tmp_path.glob("*.safetensors"))
  assert len(files) == (
    3 if shard_bytes == 1 else 2 if shard_bytes == 40 else 1
  )
  index = tmp_path / "model.safetensors.index.json"
  assert index.exists() == (len(files) > 1)


def test_cut_files_and_other_formats_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="must be converted first"):
    safetensors.read(str(tmp_path))
  _write(tmp_path)
  path = tmp_path / "model.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:-1])
  with pytest.raises(ValueError, match="fetch it again"):
    safetensors.read(str(tmp_path))
  path.write_bytes(whole[:20])
  with pytest.raises(ValueError, match="cut off in its header"):
    safetensors.read(str(tmp_path))
  path.write_bytes(whole.replace(b'"F32"', b'"I32"'))
  with pytest.raises(ValueError, match="a is I32; readable: F64, F32"):
    safetensors.read(str(tmp_path))
  with pytest.raises(ValueError, match="choose float32, bfloat16"):
    _write(tmp_path, dtype="float16")


def test_files_that_the_index_names_and_are_missing_are_named(tmp_path):
  _write(tmp_path, shard_bytes=1)
  first, *others = sorted(tmp_path.glob("*.safetensors"))
  first.unlink()
  with pytest.raises(
    FileNotFoundError, match=f"lacks {first.name}, 1 of the {1 + len(others)}"
  ):
    safetensors.read(str(tmp_path))
