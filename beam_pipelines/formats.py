"""Documents as the bytes of a file; equal documents give equal bytes."""

import dataclasses
import gzip
import io
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import pyarrow
import zstandard
from pyarrow import parquet

from mlm.text import documents as documents_lib

_SCHEMA = pyarrow.schema(
  [
    ("url", pyarrow.string()),
    ("timestamp", pyarrow.string()),
    ("text", pyarrow.string()),
    ("language", pyarrow.string()),
    ("language_probability", pyarrow.float64()),
  ]
)
_ROW_GROUP = 1 << 14  # documents


def _jsonl(documents) -> bytes:
  lines = map(documents_lib.to_json, documents)
  return "".join(f"{line}\n" for line in lines).encode()


def _jsonl_gz(documents) -> bytes:
  return gzip.compress(_jsonl(documents), compresslevel=6, mtime=0)


def _jsonl_zst(documents) -> bytes:
  return zstandard.ZstdCompressor(write_checksum=True).compress(
    _jsonl(documents)
  )


def _parquet(documents) -> bytes:
  rows = [dataclasses.asdict(document) for document in documents]
  stream = io.BytesIO()
  parquet.write_table(
    pyarrow.Table.from_pylist(rows, schema=_SCHEMA),
    stream,
    compression="zstd",
    row_group_size=_ROW_GROUP,
  )
  return stream.getvalue()


def _example(document) -> bytes:
  """tf.train.Example: the fields as bytes, the probability as a float."""
  import tensorflow as tf

  features = {}
  for name, value in dataclasses.asdict(document).items():
    if isinstance(value, str):
      of_bytes = tf.train.BytesList(value=[value.encode()])
      features[name] = tf.train.Feature(bytes_list=of_bytes)
    else:
      of_floats = tf.train.FloatList(value=[value])
      features[name] = tf.train.Feature(float_list=of_floats)
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def _through_file(write: Callable) -> bytes:
  """What a writer that needs a path on the local disk writes."""
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / "records"
    write(str(path))
    return path.read_bytes()


def _tfrecord(documents) -> bytes:
  import tensorflow as tf

  def write(path):
    with tf.io.TFRecordWriter(path) as writer:
      for document in documents:
        writer.write(_example(document))

  return _through_file(write)


def _array_record(documents) -> bytes:
  from array_record.python import array_record_module

  def write(path):
    # One record a group: random access costs one read.
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for document in documents:
      writer.write(_example(document))
    writer.close()

  return _through_file(write)


_WRITERS: dict[str, Callable[[Sequence[documents_lib.Document]], bytes]] = {
  "jsonl.gz": _jsonl_gz,
  "jsonl.zst": _jsonl_zst,
  "parquet": _parquet,
  "tfrecord": _tfrecord,
  "array_record": _array_record,
}
FORMATS = tuple(_WRITERS)


def encode(
  documents: Sequence[documents_lib.Document], file_format: str
) -> bytes:
  """The content of a file.

  Args:
    documents: in order.
    file_format: one of FORMATS. tfrecord and array_record hold
      `tf.train.Example`s.
  """
  return _WRITERS[file_format](documents)
