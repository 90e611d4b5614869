import pytest

from mlm.training import tensorboard


def _read(output):
  """(step, tag, value) of all event files, by TensorFlow's own reader."""
  summary_iterator = pytest.importorskip(
    "tensorflow"
  ).compat.v1.train.summary_iterator
  found = []
  for path in sorted((output / "tensorboard").iterdir()):
    for event in summary_iterator(str(path)):
      for value in event.summary.value:
        found.append((event.step, value.tag, value.simple_value))
  return found


def test_tensorflow_reads_what_was_written_by_language_and_by_expert(tmp_path):
  write = tensorboard.make_writer(tmp_path, 0)
  write(
    {
      "step": 9,
      "loss": 0.5,
      "accuracy": None,
      "loss_by_language": {"hin_Deva": 0.25, "zho_Hani": 0.75},
      "load_by_expert": [0.125, 0.875],
    }
  )
  assert _read(tmp_path) == [
    (9, "loss", 0.5),
    (9, "loss_by_language/hin_Deva", 0.25),
    (9, "loss_by_language/zho_Hani", 0.75),
    (9, "load_by_expert/0", 0.125),
    (9, "load_by_expert/1", 0.875),
  ]
