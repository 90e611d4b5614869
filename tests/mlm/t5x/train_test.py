"""`python -m t5x.train` on the sample crawl with gin/t5x, and the way back.

Where requirements-t5x.txt is installed.
"""

import dataclasses
import glob
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mlm.checkpoints import t5x as t5x_checkpoints
from mlm.jobs import import_checkpoint, models
from mlm.models import counting
from mlm.sharding import mesh as mesh_lib
from tests import tiny_models

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[3]
CRAWL = "tests/testdata/crawl"
QUICKSTART = "gin/experiments/quickstart"
NUM_STEPS = 40
MESH = {"data": 2, "fsdp": 2, "tensor": 2}
# As gin/models/*_tiny.gin have them.
MT5 = dataclasses.replace(
  tiny_models.ENCODER_DECODER,
  vocab_size=4224,
  d_model=128,
  d_ff=256,
  num_heads=4,
  head_dim=32,
  num_buckets=32,
  max_distance=128,
)
DECODER = dataclasses.replace(
  tiny_models.DECODER,
  vocab_size=4096,
  num_layers=4,
  d_model=128,
  d_ff=384,
  head_dim=32,
  rope_theta=500000.0,
  tie_embeddings=True,
)


def _run(*arguments):
  # One device, as a user has it: the tests' eight are for meshes of ours.
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-m", *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=1200,  # t5x that fails may wait for its threads for ever
  )
  assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Folder with corpus, tokenizer and tokens of the sample crawl."""
  pytest.importorskip("t5x")
  folder = tmp_path_factory.mktemp("data")
  corpus, tokenizer = f"{folder}/corpus", f"{folder}/tokenizer"
  _run(
    "beam_pipelines.mc4",
    f"--input={CRAWL}/sample_crawl.warc.gz",
    f"--output={corpus}",
    "--validation_modulus=5",
    f"--bad_words={CRAWL}/bad_words",
  )
  for job, *arguments in (
    ("train_tokenizer", f"--gin.OUTPUT={tokenizer}"),
    (
      "cache_tokens",
      f"--gin.TOKENIZER={tokenizer}",
      f"--gin.OUTPUT={folder}/tokens",
    ),
  ):
    _run(
      *("mlm.run", job, f"--gin_file={QUICKSTART}/{job}.gin"),
      *(f"--gin.CORPUS={corpus}", *arguments),
    )
  return folder


def _train(data, gin_file, output, **macros):
  bindings = {
    "TOKENIZER": f"{data}/tokenizer",
    "MODEL_DIR": str(output),
    **macros,
  }
  _run(
    *("t5x.train", f"--gin_file={gin_file}"),
    *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
    f"--gin.TRAIN_STEPS={NUM_STEPS}",
    "--gin.STATS_PERIOD=10",
  )


def _losses(output) -> list[float]:
  """Means of ten steps each, as t5x wrote them for TensorBoard."""
  import tensorflow as tf

  found = {}
  for path in glob.glob(f"{output}/train/events*"):
    for event in tf.compat.v1.train.summary_iterator(path):
      for value in event.summary.value:
        if value.tag == "loss":
          found[event.step] = float(tf.make_ndarray(value.tensor))
  return [found[step] for step in sorted(found)]


def _imported(source, output, model):
  import_checkpoint.import_checkpoint(
    source=str(source),
    model=model,
    tokenizer="",
    output=str(output),
    mesh_shape=MESH,
    activation_dtype="float32",
    remat="none",
  )
  return models.open_model(
    str(output), mesh=mesh_lib.make_mesh(MESH), metadata={}
  )


@pytest.mark.parametrize("kind", ["mt5", "decoder"])
def test_t5x_trains_ours_and_we_read_what_it_wrote(data, tmp_path, kind):
  output = tmp_path / "run"
  if kind == "mt5":
    config, given, macros = MT5, None, {"TOKENS": f"{data}/tokens"}
  else:
    config, macros = DECODER, {"CORPUS": f"{data}/corpus"}
    # Fields of jobs, which the job's own arguments set.
    given = dataclasses.replace(config, remat="full")
  _train(data, f"gin/t5x/{kind}.gin", output, **macros)
  losses = _losses(output)
  assert len(losses) == NUM_STEPS // 10
  # A uniform guess over about 4,096 pieces costs 8.3.
  assert losses[-1] < losses[0] - 0.5 and losses[-1] < 8.3, losses
  checkpoint = output / f"checkpoint_{NUM_STEPS}"
  opened = _imported(checkpoint, tmp_path / "ours", given)
  assert opened.config == config
  written = t5x_checkpoints.read(str(checkpoint))
  assert sum(
    x.size for x in jax.tree.leaves(opened.params)
  ) == counting.num_params(config)
  name = "embedding" if kind == "decoder" else "token_embedder/embedding"
  np.testing.assert_array_equal(
    opened.params["embedding"], np.asarray(written[name])
  )
