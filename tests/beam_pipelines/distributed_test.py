"""The pipelines on Prism, Beam's portable runner, with workers of their own.

Runner, driver, worker pool and worker are processes that speak gRPC, as on
Dataflow. What they write is what the in-process runner writes, byte for byte.
`make test-distributed` builds Prism and names it in PRISM.
"""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from beam_pipelines import fineweb2, glot500, mc4

pytestmark = pytest.mark.distributed

SAMPLE = pathlib.Path(__file__).parents[1] / "testdata" / "crawl"


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def _await_port(port: int, process: subprocess.Popen) -> None:
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    assert process.poll() is None, "the server ended"
    with socket.socket() as s:
      if not s.connect_ex(("localhost", port)):
        return
    time.sleep(0.1)
  raise AssertionError(f"nothing listens on port {port}")


@pytest.fixture(scope="module")
def beam_options(tmp_path_factory):
  """Options that send a pipeline to Prism and its steps to other processes."""
  prism = os.environ.get("PRISM")
  assert prism, "PRISM names no program: run this with make test-distributed"
  jobs, pool = _free_port(), _free_port()
  # The pool starts its workers as "python".
  path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  log = (tmp_path_factory.mktemp("prism") / "log").open("w")
  servers = [
    subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    for command, environment in (
      ([prism, f"--job_port={jobs}", "--serve_http=false"], None),
      (
        [
          *(
            sys.executable,
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
          ),
          f"--service_port={pool}",
        ],
        {**os.environ, "PATH": path},
      ),
    )
  ]
  for port, server in zip((jobs, pool), servers):
    _await_port(port, server)
  yield [
    "--runner=PortableRunner",
    f"--job_endpoint=localhost:{jobs}",
    "--environment_type=EXTERNAL",
    f"--environment_config=localhost:{pool}",
  ]
  for server in servers:
    server.terminate()
    server.wait(30)


def _tree(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob("*"))
    if path.is_file()
  }


@pytest.mark.parametrize("pipeline", [mc4, fineweb2, glot500])
def test_prism_writes_what_the_in_process_runner_writes(
  pipeline, beam_options, chunks, tmp_path
):
  if pipeline is glot500:
    arguments = [f"--input={chunks}", "--min_chunks=10"]
  else:
    arguments = [f"--input={SAMPLE}/sample_crawl.warc.gz"]
  arguments += ["--validation_modulus=5", "--shard_megabytes=0.01"]
  counts = pipeline.run([*arguments, f"--output={tmp_path}/one"])
  pipeline.run([*arguments, f"--output={tmp_path}/other", *beam_options])
  assert len(counts["languages"]) >= 3
  one, other = _tree(tmp_path / "one"), _tree(tmp_path / "other")
  assert sorted(one) == sorted(other)
  assert [name for name in one if one[name] != other[name]] == []


def test_several_worker_processes_write_the_same(tmp_path):
  arguments = [f"--input={SAMPLE}/sample_crawl.warc.gz"]
  arguments += ["--validation_modulus=5"]
  mc4.run([*arguments, f"--output={tmp_path}/one"])
  mc4.run(
    [
      *(*arguments, f"--output={tmp_path}/other"),
      *("--direct_num_workers=3", "--direct_running_mode=multi_processing"),
    ]
  )
  assert _tree(tmp_path / "one") == _tree(tmp_path / "other")
