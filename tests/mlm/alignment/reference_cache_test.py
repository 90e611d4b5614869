"""Kept log-probabilities: read again under their key, refused under another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mlm.alignment import reference_cache
from mlm.data import prompts
from mlm.sharding import mesh as mesh_lib

PAIRS = [
  {"prompt": "ዳቦ", "chosen": "ወንዝ", "rejected": "ጠዋት"},
  {"prompt": "хлеб", "chosen": "река", "rejected": "утро"},
]


def _params():
  rng = np.random.default_rng(0)
  return {
    "a": jnp.asarray(rng.normal(size=(8, 6)), jnp.float32),
    "b": {"c": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16)},
  }


def _key(**changes):
  settings = {
    "pairs": PAIRS,
    "params": _params(),
    "model": {"num_layers": 2, "widths": (3, 4)},
    "tokenizer_sha256": "ab12",
    "prompt_length": 8,
    "response_length": 4,
  }
  settings = {**settings, **changes}
  return reference_cache.key_of(settings.pop("pairs"), **settings)


def test_what_was_written_is_read_under_the_same_key(tmp_path):
  path = str(tmp_path / "folder" / "reference.npz")
  assert reference_cache.read(path, _key()) is None
  logprobs = np.float32([[-1.25, -3.5], [-0.1, -7.0]])
  reference_cache.write(path, _key(), logprobs)
  np.testing.assert_array_equal(reference_cache.read(path, _key()), logprobs)


@pytest.mark.parametrize(
  "changes, entry",
  [
    ({"params": {**_params(), "a": _params()["a"] + 1e-3}}, "checkpoint"),
    ({"model": {"num_layers": 2, "widths": (3, 5)}}, "model"),
    ({"tokenizer_sha256": "cd34"}, "tokenizer_sha256"),
    ({"prompt_length": 9}, "prompt_length"),
    ({"response_length": 5}, "response_length"),
    ({"pairs": PAIRS[::-1]}, "pairs_sha256"),
  ],
)
def test_another_key_is_refused_and_its_entry_named(tmp_path, changes, entry):
  path = str(tmp_path / "reference.npz")
  reference_cache.write(path, _key(), np.zeros((2, 2), np.float32))
  with pytest.raises(ValueError) as error:
    reference_cache.read(path, _key(**changes))
  lines = str(error.value).split("\n")
  assert [line.split(":")[0].strip() for line in lines[1:-1]] == [entry]


def test_another_prompt_format_is_refused(tmp_path, monkeypatch):
  path = str(tmp_path / "reference.npz")
  reference_cache.write(path, _key(), np.zeros((2, 2), np.float32))
  monkeypatch.setattr(prompts, "prompt_ids", lambda processor, text: [3, text])
  with pytest.raises(ValueError, match="prompt_format"):
    reference_cache.read(path, _key())


def test_a_fingerprint_is_of_values_and_names_whatever_the_mesh():
  params = _params()
  found = reference_cache.fingerprint(params)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  spread = jax.device_put(
    params["a"], NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
  )
  whole = jax.device_put(params["b"], NamedSharding(mesh, PartitionSpec()))
  assert reference_cache.fingerprint({"a": spread, "b": whole}) == found
  others = [
    {**params, "a": params["a"].at[3, 2].add(1e-6)},
    {**params, "a": params["a"][::-1]},
    {**params, "a": params["a"][:, ::-1]},
    {**params, "a": params["a"].reshape(6, 8)},
    {"d": params["a"], "b": params["b"]},
  ]
  digests = {reference_cache.fingerprint(other) for other in others}
  assert len(digests | {found}) == 6
