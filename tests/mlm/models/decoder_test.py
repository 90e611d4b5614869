"""The decoder: causality, packing, padding, cache, counts, sharding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from kernels.causal_attention import api as causal_attention
from kernels.causal_attention import splash_tpu
from mlm.models import backends as backends_lib
from mlm.models import decoder, layers
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from tests import tiny_models

CONFIG = tiny_models.DECODER

# Three heads: not a power of two, as BLOOM's 112 are not.
FAMILIES = {
  "llama3": dataclasses.replace(
    CONFIG,
    rope_scaling={"factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 9},
  ),
  "cohere": dataclasses.replace(
    CONFIG,
    position_encoding="rotary_pairs",
    norm="layer",
    parallel_block=True,
    tie_embeddings=True,
    logit_scale=0.0625,
  ),
  "bloom": dataclasses.replace(
    CONFIG,
    num_heads=3,
    num_kv_heads=3,
    position_encoding="alibi",
    rope_theta=None,
    norm="layer",
    mlp="gelu",
    use_biases=True,
    normalize_embedding=True,
    tie_embeddings=True,
  ),
}


def _jitted(config):
  """A model, and params under which every path matters to the logits."""
  model = decoder.build(config)
  model = model._replace(
    apply=jax.jit(model.apply), extend=jax.jit(model.extend)
  )
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


@pytest.fixture(scope="module")
def model_and_params():
  return _jitted(CONFIG)


@pytest.fixture(scope="module")
def model(model_and_params):
  return model_and_params[0]


@pytest.fixture(scope="module")
def params(model_and_params):
  return model_and_params[1]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
  return _jitted(FAMILIES[request.param])


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


def test_no_gradient_flows_from_the_future(family):
  model, params = family
  batch = _batch([[1, 2, 3, 4, 5]])

  def logit(embedding):
    outputs = model.apply({**params, "embedding": embedding}, batch)
    # Not the logits: a tied table is also the output matrix.
    return (outputs["hidden"][0, 2] * jnp.arange(16)).sum()

  gradient = jax.grad(logit)(params["embedding"])
  assert (np.abs(gradient[jnp.array([1, 2, 3])]).max(axis=1) > 0).all()
  np.testing.assert_array_equal(gradient[jnp.array([4, 5])], 0)


def test_packed_documents_are_as_if_alone(family):
  model, params = family
  a, b = [7, 8, 9], [10, 11, 12, 13]
  packed = _batch(
    [a + b + [0]], [[1] * 3 + [2] * 4 + [0]], [[0, 1, 2, 0, 1, 2, 3, 0]]
  )
  got = _logits(model.apply(params, packed))[0]
  for rows, alone in [(slice(0, 3), a), (slice(3, 7), b)]:
    want = _logits(model.apply(params, _batch([alone])))[0]
    np.testing.assert_allclose(got[rows], want, rtol=1e-4, atol=1e-4)


def test_padding_on_either_side_changes_nothing(family):
  model, params = family
  tokens = [7, 8, 9, 10]
  want = _logits(model.apply(params, _batch([tokens])))[0]
  left = _batch([[0, 0] + tokens], [[0, 0, 1, 1, 1, 1]], [[0, 0, 0, 1, 2, 3]])
  right = _batch([tokens + [5, 5]], [[1, 1, 1, 1, 0, 0]])
  for batch, rows in ((left, slice(2, 6)), (right, slice(0, 4))):
    got = _logits(model.apply(params, batch))[0, rows]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_grouped_queries_equal_heads_with_repeated_keys():
  rng = np.random.default_rng(0)
  query = rng.normal(size=(2, 3, 6, 8)).astype(np.float32)
  key, value = rng.normal(size=(2, 2, 5, 3, 8)).astype(np.float32)
  mask = np.ones((2, 3, 5), bool)
  mask[0, 1, 2:] = False
  got = jax.jit(layers.attend)(query * 8**-0.5, [key], [value], mask, None)
  repeated = [np.repeat(x, 2, axis=2) for x in (key, value)]
  want = jax.jit(jax.nn.dot_product_attention)(
    query, *repeated, mask=mask[:, None]
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_cached_decoding_equals_the_full_forward(family):
  """Left-padded prompts of unequal length, then one token at a time."""
  model, params = family
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


def test_a_repeated_cache_serves_every_sample(model, params):
  """One prefill of a prompt, then two different continuations of it."""
  prompt = np.array([[0, 5, 6]])
  continuations = np.array([[7, 8], [9, 10]])
  cache = model.init_cache(1, 5)
  _, cache = model.extend(
    params, cache, prompt, np.array([[0, 0, 1]]), prompt != 0
  )
  cache = {
    "keys": jnp.repeat(cache["keys"], 2, axis=1),
    "values": jnp.repeat(cache["values"], 2, axis=1),
    "valid": jnp.repeat(cache["valid"], 2, axis=0),
    "index": cache["index"],
  }
  outputs, _ = model.extend(
    params,
    cache,
    continuations,
    np.array([[2, 3], [2, 3]]),
    np.ones((2, 2), bool),
  )
  rows = np.concatenate([np.repeat(prompt[:, 1:], 2, axis=0), continuations], 1)
  want = _logits(model.apply(params, _batch(rows)))[:, 2:]
  np.testing.assert_allclose(_logits(outputs), want, rtol=1e-4, atol=1e-4)


def test_more_tokens_than_the_cache_has_slots_are_refused(model, params):
  rows = np.ones((1, 4), np.int32)
  with pytest.raises(ValueError, match="do not fit a cache of 3 slots"):
    model.extend(params, model.init_cache(1, 3), rows, rows, rows == 1)
  three = rows[:, :3]
  eager = decoder.build(CONFIG)  # under jit nobody knows how many are taken
  _, cache = eager.extend(
    params, eager.init_cache(1, 5), three, three, three == 1
  )
  with pytest.raises(ValueError, match="5 slots, of which 3 are taken"):
    eager.extend(params, cache, three, three, three == 1)


def test_a_tied_output_matrix_is_the_table_times_the_logit_scale(params):
  config = dataclasses.replace(CONFIG, tie_embeddings=True, logit_scale=0.0625)
  tied_params = {k: v for k, v in params.items() if k != "unembedding"}
  outputs = jax.jit(decoder.build(config).apply)(tied_params, _batch([[1, 2]]))
  np.testing.assert_array_equal(
    outputs["unembedding"], params["embedding"].T / 16
  )


def test_bfloat16_is_close_to_float32(model, params):
  half = decoder.build(dataclasses.replace(CONFIG, activation_dtype="bfloat16"))
  small = jax.tree.map(lambda x: x * 0.5, params)
  batch = _batch([[1, 2, 3, 4]])
  want = model.apply(small, batch)["hidden"]
  got = jax.jit(half.apply)(small, batch)["hidden"].astype(jnp.float32)
  # bfloat16 keeps 8 bits: 2 layers of a few roundings each, on values near 1.
  assert float(jnp.abs(want - got).mean()) < 0.05


@pytest.mark.parametrize(
  "shape, in_context",
  [
    ({"data": 8, "fsdp": 1, "tensor": 1}, False),
    ({"data": 1, "fsdp": 8, "tensor": 1}, False),
    ({"data": 2, "fsdp": 2, "tensor": 2}, False),
    ({"data": 2, "fsdp": 2, "tensor": 2}, True),
  ],
)
def test_sharded_equals_unsharded(model, params, shape, in_context):
  mesh = mesh_lib.make_mesh(shape)
  tokens = np.arange(8 * 6).reshape(8, 6) % 48
  want = _logits(model.apply(params, _batch(tokens)))
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  sharded = jax.device_put(params, shardings)
  batch = jax.device_put(_batch(tokens), rules.batch_sharding(mesh))
  if in_context:
    with jax.set_mesh(mesh):
      outputs = model.apply(sharded, batch)
    specs = {name: x.sharding.spec for name, x in outputs.items()}
    assert specs["hidden"][0] == ("data", "fsdp")
    assert specs["unembedding"] == PartitionSpec(None, "tensor")
  else:
    outputs = model.apply(sharded, batch)
  np.testing.assert_allclose(_logits(outputs), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", [None, "emulated"])
def test_gradients_on_a_mesh_equal_those_on_one_device(
  monkeypatch, model, params, attention
):
  """With XLA's attention, and with splash attention emulated."""
  monkeypatch.setitem(
    causal_attention.BACKENDS,
    "emulated",
    functools.partial(splash_tpu.causal_attention, interpret=True),
  )
  fused = decoder.build(
    CONFIG, backends=backends_lib.PLAIN._replace(causal_attention=attention)
  )
  tokens = np.arange(8 * 6).reshape(8, 6) % 48
  segments = np.tile([1, 1, 1, 2, 2, 0], (8, 1))
  weights = jnp.float32(segments != 0)[..., None]

  def gradient(model):
    def loss(params, batch):
      # What padding computes is nobody's business.
      hidden = model.apply(params, batch)["hidden"] * weights
      return jnp.sum(hidden * jnp.cos(hidden))

    return mesh_lib.jit(jax.grad(loss))

  batch = _batch(tokens, segments)
  want = gradient(model)(params, batch)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  batch = jax.device_put(batch, rules.batch_sharding(mesh))
  got = gradient(fused)(jax.device_put(params, shardings), batch)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_kv_heads": 3}, "not divisible"),
    ({"head_dim": 7}, "even"),
    ({"num_layers": 0}, "at least 1"),
    ({"rope_theta": 0.0}, "above 0"),
    ({"rope_theta": None}, "above 0"),
    ({"norm_epsilon": 0.0}, "above 0"),
    ({"logit_scale": 0.0}, "above 0"),
    ({"position_encoding": "learned"}, "choose rotary_halves"),
    ({"position_encoding": "alibi"}, "set both to None"),
    ({"rope_scaling": {"factor": 8.0}}, "give factor, low, high"),
    (
      {"rope_scaling": dict(factor=8.0, low=4.0, high=1.0, original_length=9)},
      "low < high",
    ),
    ({"norm": "batch"}, "choose rms, layer"),
    ({"mlp": "relu"}, "choose swiglu"),
    ({"use_biases": True}, "set norm to 'layer'"),
    ({"activation_dtype": "float16"}, "65,504"),
    ({"activation_dtype": "int8"}, "choose float32"),
    ({"remat": "some"}, "choose none"),
  ],
)
def test_impossible_configurations_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)
