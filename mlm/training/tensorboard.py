"""TensorBoard's event files, beside the lines of metrics.jsonl."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

DIRECTORY = "tensorboard"


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
  """{tag: value}: of languages as loss_by_language/swh_Latn, of experts by number."""
  found = {}
  for name, value in record.items():
    if name == "step":
      continue
    if isinstance(value, Mapping):
      values = {f"{name}/{code}": of for code, of in value.items()}
    elif isinstance(value, list):
      values = {f"{name}/{i}": of for i, of in enumerate(value)}
    else:
      values = {name: value}
    found.update({tag: of for tag, of in values.items() if of is not None})
  return found


def make_writer(output: str | os.PathLike, start: int) -> Callable:
  """Opens a new event file of a run.

  Args:
    output: directory of the run.
    start: first step that this process makes; what earlier ones wrote from
      there on, TensorBoard drops.

  Returns:
    write(record), of the records of metrics.jsonl; on disk when it returns.
  """
  folder = os.path.join(output, DIRECTORY)
  os.makedirs(folder, exist_ok=True)
  # Its SummaryWriter hands events to a thread; a run may be killed meanwhile.
  writer = event_file_writer.EventsWriter(os.path.join(folder, "events"))

  def write_event(**entries):
    writer.write_event(event_pb2.Event(wall_time=time.time(), **entries))
    writer.flush()

  began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  write_event(step=start, session_log=began)

  def write(record):
    values = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value)
      for tag, value in _scalars(record).items()
    ]
    write_event(step=record["step"], summary=summary_pb2.Summary(value=values))

  return write
