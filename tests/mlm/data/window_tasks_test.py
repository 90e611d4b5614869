"""Windows of a token cache as seqio tasks for encoder–decoders."""

import numpy as np
import pytest
import seqio

from mlm.data import objectives, tasks, token_stream
from mlm.tokenizers import load, special
from tests.mlm.jobs import small_pretrain

OBJECTIVE = objectives.span_corruption(
  inputs_length=16, noise_density=0.15, mean_span=3.0, first_sentinel=319
)
PREFIX = "window_tasks_test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  small_pretrain.make_data(folder)
  return folder


def _register(folder, **changes):
  arguments = {
    "tokens": str(folder / "tokens"),
    "tokenizer": str(folder / "tokenizer"),
    "objective": OBJECTIVE,
    "prefix": PREFIX,
  }
  return tasks.register_window_tasks(**{**arguments, **changes})


def _examples(name, **options):
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    sequence_length={"inputs": 16, "targets": 64},
    split="train",
    **options,
  )
  return list(dataset.as_numpy_iterator())


def _window(example):
  """The tokens before they were corrupted."""
  spans = {}
  for token in example["targets"][:-1]:
    if token in OBJECTIVE.extra_ids:
      spans[token] = span = []
    else:
      span.append(token)
  window = []
  for token in example["inputs"][:-1]:
    window += spans.pop(token) if token in OBJECTIVE.extra_ids else [token]
  return window


def test_an_epoch_holds_every_window_once_in_an_order_of_its_seed(folder):
  names = _register(folder)
  assert names == [
    f"{PREFIX}.{code}" for code in sorted(small_pretrain.LANGUAGES)
  ]
  assert _register(folder) == names
  sha256 = load.read_card(str(folder / "tokenizer"))["model_sha256"]
  stream = token_stream.TokenStream(
    str(folder / "tokens"), "mc4.hin_Deva", "train", sha256
  )
  size = OBJECTIVE.raw_length
  want = [
    stream.read(i * size, size).tolist()
    for i in range(stream.num_tokens // size)
  ]
  name = f"{PREFIX}.hin_Deva"
  plain = _examples(name, shuffle=False, seed=0)
  assert [_window(x) for x in plain] == want
  for example in plain:
    for feature in ("inputs", "targets"):
      assert example[feature][-1] == special.EOS_ID
      assert example[feature].dtype == np.int32
  first, again, other = (
    [_window(x) for x in _examples(name, shuffle=True, seed=seed)]
    for seed in (1, 1, 2)
  )
  assert first == again != other
  assert sorted(first) == sorted(other) == sorted(want)


def test_what_does_not_fit_is_refused(folder):
  _register(folder)
  other = objectives.span_corruption(
    inputs_length=20, noise_density=0.15, mean_span=3.0, first_sentinel=319
  )
  with pytest.raises(ValueError, match="is registered with"):
    _register(folder, objective=other)
  with pytest.raises(ValueError, match="makes rows for a decoder"):
    _register(folder, objective=objectives.causal(length=8))
