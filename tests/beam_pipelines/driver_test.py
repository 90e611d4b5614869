"""The graphs that the programs leave are what a portable runner can be sent."""

import pathlib

import numpy as np
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from google.protobuf import json_format

from beam_pipelines import fineweb2, glot500, mc4

SAMPLE = pathlib.Path(__file__).parents[1] / "testdata" / "crawl"
# Dataflow takes no larger request for a job.
MAX_GRAPH_BYTES = 10_000_000
PRIMITIVES = {
  value.urn
  for name, value in vars(common_urns.primitives).items()
  if name.isupper()
}


def graphs(directory):
  paths = sorted(directory.glob("*.json"))
  assert paths
  return [
    json_format.Parse(path.read_text(), beam_runner_api_pb2.Pipeline())
    for path in paths
  ]


@pytest.mark.parametrize("pipeline", [mc4, fineweb2, glot500])
def test_graphs_are_portable(pipeline, chunks, tmp_path):
  arguments = [f"--input={SAMPLE}/sample_crawl.warc.gz"]
  if pipeline is glot500:
    arguments = [f"--input={chunks}", "--min_chunks=10"]
  pipeline.run(
    [
      *(*arguments, f"--output={tmp_path}/corpus"),
      *("--validation_modulus=5", f"--graphs={tmp_path}/graphs"),
      "--sdk_container_image=example.org/mlm:1",
    ]
  )
  for graph in graphs(tmp_path / "graphs"):
    assert graph.ByteSize() < MAX_GRAPH_BYTES
    parts = graph.components
    for transform in parts.transforms.values():
      if transform.subtransforms or transform.spec.urn in PRIMITIVES:
        continue
      # A composite that does nothing hands on its input.
      outputs = set(transform.outputs.values())
      assert outputs <= set(transform.inputs.values()), transform.unique_name
    (environment,) = parts.environments.values()
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    assert payload.container_image == "example.org/mlm:1"


def test_a_graph_does_not_grow_with_the_number_of_files(tmp_path):
  content = (SAMPLE / "sample_crawl.warc.gz").read_bytes()
  sizes = []
  for number in (1, 30):
    crawl = tmp_path / f"crawl{number:03d}"
    crawl.mkdir()
    for n in range(number):
      (crawl / f"{n}.warc.gz").write_bytes(content if n == 0 else b"")
    arguments = [f"--input={crawl}/*", f"--output={crawl}-corpus"]
    arguments += ["--validation_modulus=5", f"--graphs={crawl}-graphs"]
    mc4.run(arguments)
    found = graphs(tmp_path / f"crawl{number:03d}-graphs")
    sizes.append(np.array([g.ByteSize() for g in found]))
  # Names of 29 more files would be more. Beam numbers its parts over the life of
  # a process, so their digits differ by what ran before.
  assert np.all(np.abs(sizes[0] - sizes[1]) < 29 * len("0.warc.gz"))
