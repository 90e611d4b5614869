"""LoRA, language, task and invertible adapters of a decoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mlm.models import adapters, decoder, moe
from mlm.models import backends as backends_lib
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.training import loss_weights, losses, optimizers, schedules
from mlm.training import state as train_state
from mlm.training import step as train_step
from tests import tiny_models

CONFIG = tiny_models.DECODER
MIXTURE = dataclasses.replace(
  CONFIG,
  moe=moe.MoEConfig(
    num_experts=3,
    num_experts_per_token=2,
    renormalize=True,
    capacity_factor=None,
    load_balancing_weight=0.0,
    router_z_weight=0.0,
  ),
)
SWAHILI, HINDI, CHINESE, ARABIC = 90, 31, 107, 2
LORA = adapters.LoraConfig(
  patterns=("embedding", "layers/attention/*", "layers/mlp/*"),
  rank=3,
  alpha=6.0,
)
LANGUAGE = adapters.LanguageConfig(
  language_ids=(SWAHILI, HINDI, CHINESE), width=4, invertible_width=5
)
ONLY_LORA = adapters.AdapterConfig(lora=LORA, language=None, task_width=None)
ONLY_LANGUAGE = adapters.AdapterConfig(
  lora=None, language=LANGUAGE, task_width=None
)
ALL = adapters.AdapterConfig(lora=LORA, language=LANGUAGE, task_width=6)


def _random(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), tree
  )


def _built(config, adapter_config):
  """A model, and params under which every path matters."""
  model = decoder.build(config, adapters=adapter_config)
  params = _random(jax.eval_shape(model.init, jax.random.key(0)))
  return model._replace(
    apply=jax.jit(model.apply), extend=jax.jit(model.extend)
  ), params


@pytest.fixture(scope="module")
def with_all():
  return _built(CONFIG, ALL)


@pytest.fixture(scope="module")
def with_languages():
  return _built(CONFIG, ONLY_LANGUAGE)


def _batch(tokens, language_ids, segments=None):
  tokens = np.asarray(tokens, np.int32)
  segments = np.ones_like(tokens) if segments is None else np.int32(segments)
  starts = np.diff(segments, axis=1, prepend=segments[:, :1]) != 0
  slots = np.arange(tokens.shape[1])
  first = np.maximum.accumulate(np.where(starts, slots, 0), axis=1)
  return {
    "decoder_input_tokens": tokens,
    "decoder_target_tokens": np.roll(tokens, -1, axis=1),
    "decoder_loss_weights": np.ones(tokens.shape, np.float32),
    "decoder_segment_ids": segments,
    "decoder_positions": slots - first,
    "decoder_language_ids": np.int32(
      np.broadcast_to(language_ids, tokens.shape)
    ),
  }


TOKENS = np.arange(4 * 6).reshape(4, 6) % 48
ROWS = _batch(TOKENS, np.array([[SWAHILI], [HINDI], [CHINESE], [ARABIC]]))


def _logits(outputs):
  return outputs["hidden"] @ outputs["unembedding"]


def _fresh(config, adapter_config):
  """A base of order 1, where rounding would show, and initial adapters."""
  plain = decoder.build(config)
  base = _random(jax.eval_shape(plain.init, jax.random.key(0)))
  key = jax.random.key(3)
  fresh = adapters.init(adapter_config, base, plain.logical_axes(), key)
  return {"base": base, "adapters": fresh}


@pytest.fixture(scope="module")
def fresh():
  return _fresh(CONFIG, ALL)


def test_one_matrix_of_each_pair_is_zero_and_the_other_of_unit_gain(fresh):
  leaves = jax.tree_util.tree_flatten_with_path(fresh["adapters"])[0]
  zeros = [leaf for path, leaf in leaves if path[-1].key in ("b", "up")]
  assert 2 * len(zeros) == len(leaves)
  assert not any(leaf.any() for leaf in zeros)
  layer = fresh["adapters"]["layers"]
  for leaf, fan_in in (
    (fresh["adapters"]["embedding"]["a"], 1),  # a lookup reads one row
    (layer["attention"]["out"]["a"], 4 * 8),
    (layer["mlp"]["down"]["a"], 24),
    (layer["language"]["down"], 16),
  ):
    # 144 values or more: three standard errors are below 0.2.
    assert float(leaf.std()) * fan_in**0.5 == pytest.approx(1, abs=0.2)


def test_fresh_adapters_change_no_bit(fresh):
  want = jax.jit(decoder.build(CONFIG).apply)(fresh["base"], ROWS)
  model = decoder.build(CONFIG, adapters=ALL)
  found = jax.jit(model.apply)(fresh, ROWS)
  jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("config", [CONFIG, MIXTURE], ids=["dense", "mixture"])
def test_merged_params_compute_the_same_without_adapters(config):
  model, params = _built(config, ONLY_LORA)
  merged = adapters.merge(
    ONLY_LORA, params["base"], params["adapters"], model.logical_axes()["base"]
  )
  found = jax.jit(decoder.build(config).apply)(merged, ROWS)
  np.testing.assert_allclose(
    _logits(found), _logits(model.apply(params, ROWS)), rtol=1e-6, atol=1e-5
  )
  # alpha / rank is 2. Heads are apart; layers and experts stay so.
  pairs, base = params["adapters"], params["base"]
  for path, product in (
    (("attention", "query"), "LDR,LRNH->LDNH"),
    (("attention", "out"), "LNHR,LRD->LNHD"),
    (
      ("mlp", "down"),
      "LFR,LRD->LFD" if config is CONFIG else "LEFR,LERD->LEFD",
    ),
  ):
    pair, before, after = (
      functools.reduce(lambda node, key: node[key], path, tree["layers"])
      for tree in (pairs, base, merged)
    )
    want = before + 2 * np.einsum(product, pair["a"], pair["b"])
    np.testing.assert_allclose(after, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(merged["unembedding"], base["unembedding"])


def test_bottlenecks_cannot_be_merged(with_all):
  model, params = with_all
  with pytest.raises(ValueError, match="only LoRA can"):
    adapters.merge(
      ALL, params["base"], params["adapters"], model.logical_axes()["base"]
    )


def test_number_of_parameters():
  model = decoder.build(CONFIG, adapters=ALL)
  tree = jax.eval_shape(model.init, jax.random.key(0))["adapters"]
  D, F, N, K, V = 16, 24, 4 * 8, 2 * 8, 48
  attention = 2 * (D + N) + 2 * (D + K)
  lora = 3 * (V + D + 2 * (attention + 3 * (D + F)))
  language = 3 * (2 * (2 * D * 4) + 2 * (2 * (D // 2) * 5))
  task = 2 * (2 * D * 6)
  count = sum(x.size for x in jax.tree.leaves(tree))
  assert count == lora + language + task


def test_each_row_goes_through_its_languages_adapters_alone(with_languages):
  model, params = with_languages
  found = _logits(model.apply(params, ROWS))
  base = jax.jit(decoder.build(CONFIG).apply)
  one = dataclasses.replace(LANGUAGE, language_ids=(ARABIC,))
  alone = jax.jit(
    decoder.build(
      CONFIG, adapters=dataclasses.replace(ONLY_LANGUAGE, language=one)
    ).apply
  )
  for number in range(3):

    def own(path, leaf, n=number):
      axis = 1 if path[0].key == "layers" else 0
      return jnp.take(leaf, jnp.array([n]), axis=axis)

    of_one = {
      "base": params["base"],
      "adapters": jax.tree_util.tree_map_with_path(own, params["adapters"]),
    }
    want = _logits(alone(of_one, _batch(TOKENS, ARABIC)))
    np.testing.assert_allclose(
      found[number], want[number], rtol=1e-4, atol=1e-4
    )
  without = _logits(base(params["base"], ROWS))
  assert np.abs(found[:3] - without[:3]).min(axis=(1, 2)).max() > 0
  # Arabic has none: as if there were no adapters, but for rounding in the
  # coupling.
  np.testing.assert_allclose(found[3], without[3], rtol=1e-5, atol=1e-5)


def test_languages_packed_into_one_row_do_not_meet(with_languages):
  model, params = with_languages
  packed = _batch(
    [[5, 6, 7, 8, 9, 10]],
    [[SWAHILI] * 2 + [ARABIC] + [HINDI] * 3],
    [[1, 1, 2, 3, 3, 3]],
  )
  found = _logits(model.apply(params, packed))[0]
  for cut, language in (
    (slice(0, 2), SWAHILI),
    (slice(2, 3), ARABIC),
    (slice(3, 6), HINDI),
  ):
    row = packed["decoder_input_tokens"][:, cut]
    want = _logits(model.apply(params, _batch(row, language)))[0]
    np.testing.assert_allclose(found[cut], want, rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_another_languages_adapters(with_languages):
  model, params = with_languages
  batch = {name: x[:1] for name, x in ROWS.items()}  # Swahili

  def loss(tree):
    outputs = model.apply({"base": params["base"], "adapters": tree}, batch)
    return (outputs["hidden"] ** 2).sum()

  gradient = jax.grad(loss)(params["adapters"])
  for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
    by_language = jnp.moveaxis(leaf, 1 if path[0].key == "layers" else 0, 0)
    assert (by_language[0] != 0).any()
    np.testing.assert_array_equal(by_language[1:], 0)


class _Coupling(nn.Module):
  backends: backends_lib.Backends = backends_lib.default("float32")

  @nn.compact
  def __call__(self, x, languages):
    coupled = adapters.couple(self, x, languages)
    return coupled, adapters.uncouple(self, coupled, languages)


def test_the_invertible_adapter_is_undone_by_its_inverse(with_languages):
  _, params = with_languages
  x = np.random.default_rng(1).normal(size=(4, 6, 16)).astype(np.float32)
  languages = adapters.numbers(ONLY_LANGUAGE, ROWS["decoder_language_ids"])
  np.testing.assert_array_equal(languages[:, 0], [0, 1, 2, 3])
  coupled, back = _Coupling().apply(
    {"adapters": params["adapters"]}, x, languages
  )
  np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
  assert (np.abs(coupled - x)[:3].max(axis=(1, 2)) > 0.1).all()
  np.testing.assert_array_equal(coupled[3], x[3])


def test_cached_decoding_equals_the_full_forward(with_all):
  """Each row in its language, which the cache carries."""
  model, params = with_all
  full = _logits(model.apply(params, ROWS))
  cache, found = model.init_cache(4, 6), []
  np.testing.assert_array_equal(cache["languages"], -1)
  cache["languages"] = jnp.asarray(ROWS["decoder_language_ids"][:, 0])
  for cut in (slice(0, 4), slice(4, 5), slice(5, 6)):
    outputs, cache = model.extend(
      params,
      cache,
      TOKENS[:, cut],
      ROWS["decoder_positions"][:, cut],
      np.ones_like(TOKENS[:, cut], bool),
    )
    found.append(_logits(outputs))
  np.testing.assert_allclose(
    np.concatenate(found, axis=1), full, rtol=1e-4, atol=1e-4
  )


def test_a_model_of_one_language_decodes_with_its_adapters(with_all):
  model, params = with_all
  hindi = {
    **ROWS,
    "decoder_language_ids": np.full_like(ROWS["decoder_language_ids"], HINDI),
  }
  of_hindi = decoder.in_language(model, HINDI)
  outputs, _ = of_hindi.extend(
    params,
    of_hindi.init_cache(4, 6),
    TOKENS,
    ROWS["decoder_positions"],
    np.ones_like(TOKENS, bool),
  )
  np.testing.assert_allclose(
    _logits(outputs), _logits(model.apply(params, hindi)), rtol=1e-4, atol=1e-4
  )


def _loss_fn(model):
  return losses.with_frozen(
    functools.partial(
      losses.cross_entropy_loss,
      z_loss=0.0,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      backend="chunked",
      num_languages=109,
    ),
    lambda params, frozen, batch: model.apply(
      {"base": frozen, "adapters": params}, batch
    ),
  )


def test_training_moves_adapters_and_leaves_the_frozen_base(fresh):
  model = decoder.build(CONFIG, adapters=ALL)
  base = fresh["base"]
  optimizer = optimizers.adamw(
    learning_rate=schedules.constant_with_warmup(peak=0.01, warmup_steps=1),
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,
  )(None)
  mesh = Mesh(
    np.reshape(jax.devices()[:1], (1,) * len(mesh_lib.AXES)), mesh_lib.AXES
  )
  abstract = train_state.abstract(
    init=lambda key: model.init(key)["adapters"], optimizer=optimizer
  )
  shardings = train_state.state_shardings(
    mesh, model.logical_axes()["adapters"], abstract
  )
  state = train_state.from_params(
    params=fresh["adapters"], optimizer=optimizer, shardings=shardings
  )
  update = train_step.make_train_step(
    loss_fn=_loss_fn(model),
    optimizer=optimizer,
    num_microbatches=1,
    mesh=mesh,
    state_shardings=shardings,
  )
  means = []
  for _ in range(4):
    state, metrics = update(state, base, ROWS, 0)
    means.append(float(metrics["loss"][0] / metrics["loss"][1]))
  assert means == sorted(means, reverse=True)
  # Every leaf has moved: the zeros at once, the others after them.
  for leaf, before in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(fresh["adapters"])
  ):
    assert (leaf != before).any()
  jax.tree.map(np.testing.assert_array_equal, base, _random(base))


def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(with_all):
  model, params = with_all
  batch = jax.tree.map(lambda x: np.concatenate([x, x]), ROWS)
  step = jax.jit(jax.value_and_grad(_loss_fn(model), has_aux=True))
  (want, _), want_gradients = step(
    params["adapters"], params["base"], batch, None
  )
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  sharded = jax.device_put(params, shardings)
  batch = jax.device_put(batch, rules.batch_sharding(mesh))
  with jax.set_mesh(mesh):
    (found, _), gradients = step(
      sharded["adapters"], sharded["base"], batch, None
    )
  assert float(found) == pytest.approx(float(want), rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    gradients,
    want_gradients,
  )


@pytest.mark.parametrize("remat", ["minimal", "full"])
def test_lora_holds_no_second_copy_of_the_weights(remat):
  """Compiled memory: what all layers' sums would take is not there."""
  config = dataclasses.replace(
    CONFIG, num_layers=16, d_model=64, d_ff=256, remat=remat
  )
  model = decoder.build(
    config,
    adapters=adapters.AdapterConfig(
      lora=dataclasses.replace(LORA, patterns=("layers/mlp/*",)),
      language=None,
      task_width=None,
    ),
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  row = {name: x[:1] for name, x in ROWS.items()}
  gradient = jax.jit(jax.grad(_loss_fn(model), has_aux=True))
  memory = (
    gradient.lower(params["adapters"], params["base"], row, None)
    .compile()
    .memory_analysis()
  )
  second_copy = 4 * 16 * 3 * 64 * 256
  assert memory.temp_size_in_bytes < second_copy / 2


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: dataclasses.replace(LORA, rank=0), "rank of at least 1"),
    (lambda: dataclasses.replace(LORA, patterns=()), "a pattern"),
    (lambda: dataclasses.replace(LANGUAGE, language_ids=(3, 3)), "once"),
    (lambda: dataclasses.replace(LANGUAGE, width=0), "width 0"),
    (lambda: adapters.AdapterConfig(None, None, None), "no adapter"),
    (lambda: adapters.AdapterConfig(None, None, 0), "task_width 0"),
  ],
)
def test_impossible_configurations_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  "pattern, message",
  [
    ("layers/attention/querry", "chooses no param; there are embedding"),
    ("layers/*_norm/scale", "is no matrix"),
  ],
)
def test_patterns_must_choose_matrices(pattern, message):
  config = dataclasses.replace(
    ONLY_LORA, lora=dataclasses.replace(LORA, patterns=(pattern,))
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      decoder.build(CONFIG, adapters=config).init, jax.random.key(0)
    )
