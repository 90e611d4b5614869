"""Every file of gin/models: parsed, counted and initialised by shape."""

import dataclasses
import math
import pathlib

import jax
import pytest

import gin
from mlm.checkpoints import hugging_face
from mlm.models import counting, decoder, encdec

ROOT = pathlib.Path(__file__).parents[3]
# Counts of the published models as their reports and weights have them; those
# of Llama 5 and the tiny ones (at 4,096 pieces) by hand from their shapes.
DECODERS = {
  "aya23_35b": 34_980_831_232,
  "aya23_8b": 8_028_033_024,
  "bloom_176b": 176_247_271_424,
  "decoder_tiny": 1_311_872,
  "llama3_405b": 405_853_388_800,
  "llama3_70b": 70_553_706_496,
  "llama3_8b": 8_030_261_248,
  "llama5_100m": 645_940_224,
  "llama5_1b": 2_055_284_736,
  "llama5_200b": 197_503_954_944,
  "llama5_8b": 9_127_071_744,
  "llama5_moe_200b": 201_167_867_904,
  "llama5_tiny": 5_507_328,
  "mixtral_8x22b": 140_630_071_296,
  "mixtral_8x7b": 46_702_792_704,
}
# Of a token, both ends included.
ACTIVE = {
  "llama5_moe_200b": 19_973_935_104,
  "llama5_200b": 197_503_954_944,
  "mixtral_8x22b": 39_161_468_928,
  "mixtral_8x7b": 12_879_925_248,
}
# With the vocabularies of mT5 and of T5 1.1: what t5x's own network has.
ENCODER_DECODERS = {
  "mt5_tiny": (64_816_896, 9_012_992),  # ours, by the same formula
  "mt5_small": (300_176_768, 76_961_152),
  "mt5_base": (582_401_280, 247_577_856),
  "mt5_large": (1_229_581_312, 783_150_080),
  "mt5_xl": (3_742_619_648, 2_849_757_184),
  "mt5_xxl": (12_921_057_280, 11_135_332_352),
}
FAMILIES = ("aya23", "llama3", "llama5", "mixtral", "mt5")  # what sizes include
OVERLAYS = ("umt5",)


@pytest.fixture(autouse=True)
def _gin(monkeypatch):
  monkeypatch.chdir(ROOT)
  yield
  gin.clear_config()


def _parsed(config_class, *lines):
  module = config_class.__module__.rpartition(".")[2]
  gin.parse_config(
    [
      "from __gin__ import dynamic_registration",
      f"from mlm.models import {module}",
      *lines,
    ]
  )
  return gin.get_configurable(config_class)()


def _config(name):
  lines = [f"include 'gin/models/{name}.gin'"]
  if name.endswith("tiny"):
    lines.append("VOCAB_SIZE = 4096")
  return _parsed(decoder.DecoderConfig, *lines)


def _mt5(name, *lines):
  return _parsed(
    encdec.EncoderDecoderConfig, f"include 'gin/models/{name}.gin'", *lines
  )


def _initialised(model):
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(abstract))


def test_every_file_is_a_size_or_what_sizes_include():
  files = {path.stem for path in (ROOT / "gin" / "models").glob("*.gin")}
  assert files == {*DECODERS, *ENCODER_DECODERS, *FAMILIES, *OVERLAYS}


@pytest.mark.parametrize("name", DECODERS)
def test_counts_of_decoders_are_the_published_and_the_initialised_ones(name):
  config = _config(name)
  assert counting.num_params(config) == DECODERS[name]
  assert _initialised(decoder.build(config)) == DECODERS[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_meets_the_published_number_of_parameters(name):
  assert counting.num_active_params(_config(name)) == ACTIVE[name]


def test_qwen3_235b_is_the_same_family():
  """Its norms of queries and keys, 2 x 94 x 128 weights, are not counted."""
  config = dataclasses.replace(
    _config("llama5_moe_200b"), num_layers=94, vocab_size=151936
  )
  assert counting.num_params(config) == 235_093_610_496
  assert counting.num_active_params(config) == 22_190_739_456


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("vocab_size", [250112, 32128])
def test_counts_of_mt5_and_t5_are_t5xs_and_the_initialised_ones(
  name, vocab_size
):
  config = _mt5(name, f"VOCAB_SIZE = {vocab_size}")
  expected = ENCODER_DECODERS[name][vocab_size == 32128]
  assert counting.encoder_decoder_num_params(config) == expected
  assert _initialised(encdec.build(config)) == expected


def test_umt5_has_a_table_of_distances_for_every_layer():
  umt5 = _mt5("mt5_small", "include 'gin/models/umt5.gin'")
  one_table = dataclasses.replace(umt5, relative_bias="stack")
  count = counting.encoder_decoder_num_params(umt5)
  assert count == _initialised(encdec.build(umt5))
  # 8 + 8 layers instead of 1 + 1 stacks, 32 buckets, 6 heads.
  fewer = counting.encoder_decoder_num_params(one_table)
  assert count - fewer == 14 * 32 * 6


@pytest.mark.parametrize(
  "name, num_tensors",
  [
    # Layers times tensors a layer, and those outside of the layers.
    ("llama3_405b", 126 * 9 + 3),
    ("bloom_176b", 70 * 12 + 5),
    ("aya23_35b", 40 * 8 + 2),
    ("mt5_xxl", 24 * 9 + 24 * 14 + 6),
  ],
)
def test_tensors_of_hugging_face_add_up_to_the_same_count(name, num_tensors):
  is_mt5 = name in ENCODER_DECODERS
  config = _mt5(name) if is_mt5 else _config(name)
  expected = ENCODER_DECODERS[name][0] if is_mt5 else DECODERS[name]
  shapes = hugging_face.shapes(config)
  assert len(shapes) == num_tensors
  assert sum(math.prod(shape) for shape in shapes.values()) == expected


@pytest.mark.parametrize(
  "change",
  [
    {"tie_embeddings": False},
    {"parallel_block": True},
    {"normalize_embedding": False},
    {"use_biases": False},
    {"mlp": "geglu", "num_kv_heads": 8},
  ],
)
def test_each_option_is_counted(change):
  bloom = _config("bloom_176b")
  config = dataclasses.replace(bloom, **change)
  assert counting.num_params(config) == _initialised(decoder.build(config))
  assert counting.num_params(config) != counting.num_params(bloom)


def test_state_of_the_200b_model_is_3_2_terabytes():
  # 12 bytes a parameter in the checkpoint, 2.37 TB, and 4 for the gradient.
  state = counting.training_state_bytes(_config("llama5_200b"))
  assert state == pytest.approx(2.37e12 * 16 / 12, rel=1e-3)


def test_flops_are_six_per_weight_and_half_the_attention_square():
  flops = counting.training_flops_per_token(_config("llama5_200b"), 8192)
  # 6 N = 1.185e12 counts the lookup; attention adds 6.3e10 at 8,192 tokens.
  lookup = 6 * 262144 * 12288
  assert flops + lookup == pytest.approx(1.185e12 + 6.3e10, rel=2e-3)


def test_flops_of_a_mixture_are_those_of_the_active_parameters():
  config = _config("llama5_moe_200b")
  flops = counting.training_flops_per_token(config, 8192)
  # But for the lookup and the norms, 2 a layer and one.
  passive = (262144 + 161) * 4096
  attention = 6 * 80 * 64 * 128 * 8192
  assert flops == 6 * (ACTIVE["llama5_moe_200b"] - passive) + attention
