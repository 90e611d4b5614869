"""The decoder: causality, packing, padding, cache, counts, sharding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.models import counting, decoder, layers
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules

CONFIG = decoder.DecoderConfig(
  vocab_size=48,
  num_layers=2,
  d_model=16,
  d_ff=24,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  rope_theta=10000.0,
  norm_epsilon=1e-5,
  tie_embeddings=False,
  activation_dtype="float32",
  remat="none",
)


@pytest.fixture(scope="module")
def model():
  return decoder.build(CONFIG)


@pytest.fixture(scope="module")
def params(model):
  params = model.init(jax.random.key(0))
  # Larger than at initialisation, so that every path matters to the logits.
  return jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
    params,
  )


def _batch(tokens, segments=None, positions=None):
  tokens = np.asarray(tokens, np.int32)
  length = tokens.shape[1]
  if segments is None:
    segments = np.ones_like(tokens)
  if positions is None:
    positions = np.tile(np.arange(length), (len(tokens), 1))
  return {
    "decoder_input_tokens": tokens,
    "decoder_segment_ids": np.asarray(segments, np.int32),
    "decoder_positions": np.asarray(positions, np.int32),
  }


def _logits(outputs):
  return outputs["hidden"] @ outputs["unembedding"]


def _numpy_forward(params, tokens):
  """One row through the decoder, written again from the definitions."""
  p = jax.tree.map(np.asarray, params)

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

  def rope(x):
    half = CONFIG.head_dim // 2
    out = np.zeros_like(x)
    for t in range(len(x)):
      for i in range(half):
        angle = t * CONFIG.rope_theta ** (-i / half)
        a, b = x[t, :, i], x[t, :, i + half]
        out[t, :, i] = a * np.cos(angle) - b * np.sin(angle)
        out[t, :, i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out

  x = p["embedding"][tokens]
  for i in range(CONFIG.num_layers):
    layer = jax.tree.map(lambda a: a[i], p["layers"])  # noqa: B023
    h = norm(x, layer["attention_norm"]["scale"])
    query = rope(np.einsum("td,dnh->tnh", h, layer["attention"]["query"]))
    key = rope(np.einsum("td,dnh->tnh", h, layer["attention"]["key"]))
    value = np.einsum("td,dnh->tnh", h, layer["attention"]["value"])
    out = np.zeros_like(query)
    for n in range(CONFIG.num_heads):
      group = n // (CONFIG.num_heads // CONFIG.num_kv_heads)
      for t in range(len(tokens)):
        scores = key[: t + 1, group] @ query[t, n] / CONFIG.head_dim**0.5
        weights = np.exp(scores - scores.max())
        out[t, n] = weights / weights.sum() @ value[: t + 1, group]
    x = x + np.einsum("tnh,nhd->td", out, layer["attention"]["out"])
    h = norm(x, layer["mlp_norm"]["scale"])
    gate = h @ layer["mlp"]["gate"]
    gated = gate / (1 + np.exp(-gate)) * (h @ layer["mlp"]["up"])
    x = x + gated @ layer["mlp"]["down"]
  return norm(x, p["final_norm"]["scale"]) @ p["unembedding"]


def test_logits_equal_a_plain_numpy_forward(model, params):
  tokens = np.array([3, 14, 15, 9, 2, 6])
  got = _logits(model.apply(params, _batch(tokens[None])))[0]
  want = _numpy_forward(params, tokens)
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


def test_no_gradient_flows_from_the_future(model, params):
  batch = _batch([[1, 2, 3, 4, 5]])

  def logit(embedding):
    outputs = model.apply({**params, "embedding": embedding}, batch)
    return _logits(outputs)[0, 2].sum()

  gradient = jax.grad(logit)(params["embedding"])
  assert (np.abs(gradient[jnp.array([1, 2, 3])]).max(axis=1) > 0).all()
  np.testing.assert_array_equal(gradient[jnp.array([4, 5])], 0)


def test_packed_documents_are_as_if_alone(model, params):
  a, b = [7, 8, 9], [10, 11, 12, 13]
  packed = _batch(
    [a + b + [0]], [[1] * 3 + [2] * 4 + [0]], [[0, 1, 2, 0, 1, 2, 3, 0]]
  )
  got = _logits(model.apply(params, packed))[0]
  for rows, alone in [(slice(0, 3), a), (slice(3, 7), b)]:
    want = _logits(model.apply(params, _batch([alone])))[0]
    np.testing.assert_allclose(got[rows], want, rtol=1e-4, atol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone():
  query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, 8))

  def score(i, j):
    at = [jnp.array([[n]]) for n in (i, j)]
    rotated = [
      layers.rotate(x, p, theta=100.0) for x, p in zip((query, key), at)
    ]
    return float((rotated[0] * rotated[1]).sum())

  assert score(5, 2) == pytest.approx(score(13, 10), abs=1e-5)
  assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-3)


def test_cached_decoding_equals_the_full_forward(model, params):
  """Left-padded prompts of unequal length, then one token at a time."""
  rows = np.array([[0, 0, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7]])
  valid = rows != 0
  positions = np.maximum(np.cumsum(valid, 1) - 1, 0)
  full = _logits(model.apply(params, _batch(rows, valid, positions)))
  prompt_length = 4
  cache = model.init_cache(2, rows.shape[1])
  cut = slice(0, prompt_length)
  outputs, cache = model.extend(
    params, cache, rows[:, cut], positions[:, cut], valid[:, cut]
  )
  got = [_logits(outputs)]
  for t in range(prompt_length, rows.shape[1]):
    cut = slice(t, t + 1)
    outputs, cache = model.extend(
      params, cache, rows[:, cut], positions[:, cut], valid[:, cut]
    )
    got.append(_logits(outputs))
  got = np.concatenate(got, axis=1)
  np.testing.assert_allclose(got[valid], full[valid], rtol=1e-4, atol=1e-4)
  assert int(cache["index"]) == rows.shape[1]


def test_remat_and_tying_change_what_they_say(params):
  batch = _batch([[1, 2, 3]])
  plain = decoder.build(CONFIG).apply(params, batch)
  remat = decoder.build(dataclasses.replace(CONFIG, remat="full"))
  np.testing.assert_allclose(
    plain["hidden"], remat.apply(params, batch)["hidden"], rtol=1e-6
  )
  tied = decoder.build(dataclasses.replace(CONFIG, tie_embeddings=True))
  tied_params = tied.init(jax.random.key(0))
  assert "unembedding" not in tied_params
  np.testing.assert_array_equal(
    tied.apply(tied_params, batch)["unembedding"],
    tied_params["embedding"].T,
  )


def test_bfloat16_is_close_to_float32(params):
  half = decoder.build(dataclasses.replace(CONFIG, activation_dtype="bfloat16"))
  small = jax.tree.map(lambda x: x * 0.5, params)
  batch = _batch([[1, 2, 3, 4]])
  want = decoder.build(CONFIG).apply(small, batch)["hidden"]
  got = half.apply(small, batch)["hidden"].astype(jnp.float32)
  # bfloat16 keeps 8 bits: 2 layers of a few roundings each, on values near 1.
  assert float(jnp.abs(want - got).mean()) < 0.05


@pytest.mark.parametrize(
  "shape",
  [
    {"data": 8, "fsdp": 1, "tensor": 1},
    {"data": 1, "fsdp": 8, "tensor": 1},
    {"data": 2, "fsdp": 2, "tensor": 2},
  ],
)
def test_sharded_equals_unsharded(model, params, shape):
  mesh = mesh_lib.make_mesh(shape)
  tokens = np.arange(8 * 6).reshape(8, 6) % 48
  want = _logits(model.apply(params, _batch(tokens)))
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  sharded = jax.device_put(params, shardings)
  batch = jax.device_put(_batch(tokens), rules.batch_sharding(mesh))
  got = jax.jit(lambda p, b: _logits(model.apply(p, b)))(sharded, batch)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# Sizes and counts: Llama 3 report, table 3; the 200B shape is this project's.
_SIZES = {
  "8b": (32, 4096, 14336, 32, 128256, 8_030_261_248),
  "70b": (80, 8192, 28672, 64, 128256, 70_553_706_496),
  "405b": (126, 16384, 53248, 128, 128256, 405_853_388_800),
  "200b": (104, 12288, 40960, 96, 262144, 197_503_954_944),
}


@pytest.mark.parametrize("size", _SIZES)
def test_parameter_counts_equal_published_ones_and_initialised_ones(size):
  num_layers, d_model, d_ff, num_heads, vocab_size, expected = _SIZES[size]
  config = dataclasses.replace(
    CONFIG,
    num_layers=num_layers,
    d_model=d_model,
    d_ff=d_ff,
    num_heads=num_heads,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=vocab_size,
  )
  assert counting.num_params(config) == expected
  abstract = jax.eval_shape(decoder.build(config).init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(abstract)) == expected


def test_flops_are_six_per_weight_and_half_the_attention_square():
  config = dataclasses.replace(
    CONFIG,
    num_layers=104,
    d_model=12288,
    d_ff=40960,
    num_heads=96,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=262144,
  )
  flops = counting.training_flops_per_token(config, 8192)
  # 6 N = 1.185e12 counts the lookup; attention adds 6.3e10 at 8,192 tokens.
  lookup = 6 * 262144 * 12288
  assert flops + lookup == pytest.approx(1.185e12 + 6.3e10, rel=2e-3)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_kv_heads": 3}, "not divisible"),
    ({"head_dim": 7}, "even"),
    ({"num_layers": 0}, "at least 1"),
    ({"activation_dtype": "float16"}, "choose"),
    ({"remat": "some"}, "choose"),
  ],
)
def test_impossible_configurations_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)
