"""Hugging Face's weights: their logits from our models, and back."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from benchmarks import hugging_face_parity as parity
from mlm.checkpoints import hugging_face
from mlm.models import encdec
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules

# What transformers and torch computed; see benchmarks/hugging_face_parity.py.
GOLDEN = json.loads(
  (
    pathlib.Path(__file__).parents[2] / "testdata" / "hugging_face_logits.json"
  ).read_text()
)["cases"]


def _config(case):
  return hugging_face.read_config(
    parity.CONFIGS[case], activation_dtype="float32", remat="none"
  )


def _tensors(config):
  return {
    name: parity.weights(name, shape)
    for name, shape in hugging_face.shapes(config).items()
  }


def _params(config, tensors):
  model = hugging_face.build(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return hugging_face.from_hugging_face(
    config, tensors, shardings=jax.tree.map(lambda _: device, abstract)
  )


def _logits(config, params, case):
  """Ours [2, T, 64], and bool [2, T] where theirs are of real tokens."""
  rows = parity.tokens(case)
  real = np.ones_like(rows)
  model = hugging_face.build(config)
  if isinstance(config, encdec.EncoderDecoderConfig):
    real[1, parity.LENGTH - parity.PADDING :] = 0
    targets = np.roll(rows, 1, axis=0)
    targets[:, 0] = 0
    ones = np.ones_like(targets)
    batch = {
      "encoder_input_tokens": rows,
      "encoder_segment_ids": real,
      "decoder_input_tokens": targets,
      "decoder_segment_ids": ones,
    }
    real = ones
  else:
    real[1, : parity.PADDING] = 0
    batch = {
      "decoder_input_tokens": rows,
      "decoder_segment_ids": real,
      "decoder_positions": np.maximum(np.cumsum(real, axis=1) - 1, 0),
    }
  outputs = jax.jit(model.apply)(params, batch)
  return np.asarray(outputs["hidden"] @ outputs["unembedding"]), real == 1


@pytest.mark.parametrize("case", parity.CONFIGS)
def test_logits_are_those_of_transformers(case):
  """Float32 against float32, in another order of sums: below 1e-4."""
  config = _config(case)
  params = _params(config, _tensors(config))
  logits, real = _logits(config, params, case)
  found, golden = parity.summary(logits), GOLDEN[case]
  np.testing.assert_allclose(found["last"], golden["last"], atol=1e-4, rtol=0)
  for name in ("logsumexp", "weighted"):
    # Sums of 64 logits and a cosine each: up to 64 times one's difference.
    np.testing.assert_allclose(
      np.array(found[name])[real],
      np.array(golden[name])[real],
      atol=5e-4 if name == "weighted" else 1e-4,
      rtol=0,
    )


@pytest.mark.parametrize("case", parity.CONFIGS)
def test_every_name_stands_for_one_param_and_comes_back(case):
  config = _config(case)
  tensors = _tensors(config)
  params = _params(config, tensors)
  model = hugging_face.build(config)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), params)
  assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), abstract)
  assert sum(x.size for x in tensors.values()) == sum(
    x.size for x in jax.tree.leaves(params)
  )
  back = dict(hugging_face.to_hugging_face(config, params))
  assert list(back) == list(tensors)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("case", parity.CONFIGS)
def test_configurations_come_back(case):
  config = _config(case)
  written = hugging_face.write_config(config)
  given = dict(parity.CONFIGS[case])
  if case == "t5":  # the same model under its later name
    given["model_type"] = "mt5"
  assert {**written, **given} == written
  again = hugging_face.read_config(
    json.loads(json.dumps(written)), activation_dtype="float32", remat="none"
  )
  assert again == config


def test_rotary_numbers_are_read_as_transformers_5_nests_them():
  given = dict(parity.CONFIGS["llama3.1"])
  rope = {**given.pop("rope_scaling"), "rope_theta": given.pop("rope_theta")}
  nested = hugging_face.read_config(
    {**given, "rope_parameters": rope}, activation_dtype="float32", remat="none"
  )
  assert nested == _config("llama3.1")


@pytest.mark.parametrize("case", ["llama3.1", "mixtral", "bloom", "mt5"])
def test_each_device_reads_its_part(case):
  config = _config(case)
  config = dataclasses.replace(config, activation_dtype="bfloat16")
  tensors = _tensors(config)
  model = hugging_face.build(config)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  whole = _params(config, tensors)
  shardings = rules.named_shardings(mesh, model.logical_axes(), whole)
  split = hugging_face.from_hugging_face(config, tensors, shardings=shardings)
  assert jax.tree.map(lambda x: x.sharding, split) == shardings
  jax.tree.map(np.testing.assert_array_equal, split, whole)


def test_keys_that_released_files_leave_out_or_spell_otherwise():
  llama, bloom, mt5 = (
    dict(parity.CONFIGS[case]) for case in ("llama3", "bloom", "mt5")
  )
  llama["hidden_size"] = 64  # 4 heads of 16
  want = dataclasses.replace(_config("llama3"), d_model=64)
  for key in ("head_dim", "tie_word_embeddings"):
    del llama[key]
  bloom["n_embed"] = bloom.pop("hidden_size")
  bloom["num_attention_heads"] = bloom.pop("n_head")
  del bloom["tie_word_embeddings"]
  del mt5["relative_attention_max_distance"]
  for given, expected in (
    (llama, want),
    (bloom, _config("bloom")),
    (mt5, dataclasses.replace(_config("mt5"), max_distance=128)),
  ):
    found = hugging_face.read_config(
      given, activation_dtype="float32", remat="none"
    )
    assert found == expected


def test_a_config_without_a_size_is_refused():
  given = dict(parity.CONFIGS["llama3"])
  del given["num_hidden_layers"], given["vocab_size"]
  with pytest.raises(ValueError, match="lacks vocab_size, num_hidden_layers"):
    hugging_face.read_config(given, activation_dtype="float32", remat="none")


def test_mt5_is_untied_whatever_transformers_5_wrote():
  tied = {**parity.CONFIGS["mt5"], "tie_word_embeddings": True}
  config = hugging_face.read_config(
    tied, activation_dtype="float32", remat="none"
  )
  assert config == _config("mt5")
  tensors = _tensors(config)
  del tensors["lm_head.weight"]
  with pytest.raises(ValueError, match="missing lm_head.weight"):
    _params(config, tensors)


def test_all_that_is_wrong_with_the_names_is_told_at_once():
  config = _config("llama3")
  tensors = _tensors(config)
  del tensors["model.layers.1.mlp.up_proj.weight"]
  tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((56, 32))
  tensors["model.norm.weight"] = np.zeros(33)
  with pytest.raises(ValueError) as error:
    _params(config, tensors)
  message = str(error.value)
  assert "missing model.layers.1.mlp.up_proj.weight" in message
  assert "unexpected model.layers.3.mlp.up_proj.weight" in message
  assert "model.norm.weight has shape [33], needed [32]" in message


def test_copies_may_be_absent_or_equal_and_not_different():
  config = _config("aya23")
  tensors = _tensors(config)
  embedding = tensors["model.embed_tokens.weight"]
  _params(config, {**tensors, "lm_head.weight": embedding})
  with pytest.raises(ValueError, match="lm_head.weight differs from"):
    _params(config, {**tensors, "lm_head.weight": embedding + 1})


def test_bloom_is_read_without_its_prefix():
  """The 176B model's files leave it out."""
  config = _config("bloom")
  tensors = _tensors(config)
  short = {name.removeprefix("transformer."): x for name, x in tensors.items()}
  jax.tree.map(
    np.testing.assert_array_equal,
    _params(config, short),
    _params(config, tensors),
  )


@pytest.mark.parametrize(
  "case, change, message",
  [
    ("llama3", {"model_type": "gpt2"}, "known: llama, cohere"),
    ("llama3", {"mlp_bias": True}, "only False is here"),
    ("llama3", {"rope_scaling": {"rope_type": "yarn"}}, "only 'llama3'"),
    ("aya23", {"use_qk_norm": True}, "only False is here"),
    ("mixtral", {"sliding_window": 4096}, "only None is here"),
    ("mt5", {"feed_forward_proj": "relu"}, "only 'gated-gelu' is here"),
    ("umt5", {"tie_word_embeddings": True}, "only False is here"),
  ],
)
def test_what_our_models_lack_is_refused(case, change, message):
  with pytest.raises(ValueError, match=message):
    hugging_face.read_config(
      {**parity.CONFIGS[case], **change},
      activation_dtype="float32",
      remat="none",
    )


def test_a_configuration_that_no_model_type_has_is_refused():
  config = dataclasses.replace(_config("llama3"), mlp="geglu")
  with pytest.raises(ValueError, match="llama in mlp 'geglu'; cohere in"):
    hugging_face.write_config(config)
  config = _config("mixtral")
  config = dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, capacity_factor=1.0)
  )
  with pytest.raises(ValueError, match="mixtral in moe.capacity_factor 1.0"):
    hugging_face.write_config(config)
