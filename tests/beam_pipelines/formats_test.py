"""Every format read back by its own library."""

import gzip
import io
import json

import pytest
import zstandard
from pyarrow import parquet

from beam_pipelines import formats
from mlm.text import documents

TEXTS = {
  "swh_Latn": "Nyumba\nkwa mto",
  "rus_Cyrl": "Дом у реки",
  "arb_Arab": "بيت عند النهر",
  "hin_Deva": "नदी के पास घर",
  "tha_Thai": "บ้านริมน้ำ",
  "jpn_Jpan": "川辺の家",
}
DOCUMENTS = [
  documents.Document(f"http://{code}.example/", "", text, code, 0.9375)
  for code, text in TEXTS.items()
]


@pytest.mark.parametrize("file_format", formats.FORMATS)
def test_equal_documents_give_equal_bytes(file_format):
  first = formats.encode(DOCUMENTS, file_format)
  assert formats.encode(list(DOCUMENTS), file_format) == first
  assert formats.encode(DOCUMENTS[::-1], file_format) != first
  formats.encode([], file_format)  # an empty shard


def test_json_lines_and_parquet():
  gz = gzip.decompress(formats.encode(DOCUMENTS, "jsonl.gz"))
  zst = zstandard.decompress(formats.encode(DOCUMENTS, "jsonl.zst"))
  assert gz == zst
  lines = gz.decode().split("\n")[:-1]
  assert [documents.from_json(line) for line in lines] == DOCUMENTS
  table = parquet.read_table(io.BytesIO(formats.encode(DOCUMENTS, "parquet")))
  rows = [documents.from_json(json.dumps(row)) for row in table.to_pylist()]
  assert rows == DOCUMENTS


def test_tensorflow_examples(tmp_path):
  import seqio
  import tensorflow as tf
  from array_record.python import array_record_data_source

  path = tmp_path / "train.tfrecord"
  path.write_bytes(formats.encode(DOCUMENTS, "tfrecord"))
  string = tf.io.FixedLenFeature([], tf.string)
  source = seqio.TFExampleDataSource(
    {"train": str(path)},
    {
      "text": string,
      "language": string,
      "language_probability": tf.io.FixedLenFeature([], tf.float32),
    },
  )
  found = list(source.get_dataset("train").as_numpy_iterator())
  assert [row["text"].decode() for row in found] == list(TEXTS.values())
  assert [row["language"].decode() for row in found] == list(TEXTS)
  assert {float(row["language_probability"]) for row in found} == {0.9375}

  other = tmp_path / "train.array_record"
  other.write_bytes(formats.encode(DOCUMENTS, "array_record"))
  records = array_record_data_source.ArrayRecordDataSource([str(other)])
  tfrecords = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  assert [records[i] for i in range(len(records))] == list(tfrecords)
