"""Refill: the tokens of plain sampling, in fewer steps."""

import collections
import dataclasses
import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kernels import ahead_of_time
from mlm.decoding import generate as generate_lib
from mlm.decoding import prefill, refill
from mlm.decoding import sampling as sampling_lib
from mlm.models import backends, decoder
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from tests import tiny_models

PAD, EOS = 0, 1
R, K, B = 9, 2, 5
PROMPTS = np.array(
  [
    [0, 0, 0, 3, 4],
    [5, 6, 7, 8, 9],
    [0, 0, 9, 2, 3],
    [0, 4, 4, 5, 5],
    [0, 0, 0, 0, 7],
  ],
  np.int32,
)
# G, F and the slots of a page: each compiled once.
SIZES = ((3, 2, 2), (9, 5, 8))
_OPTIONS = {
  "response_length": R,
  "samples_per_prompt": K,
  "sampling": sampling_lib.Sampling(
    forbidden_ids=(PAD,), min_tokens=0, temperature=1.5, top_k=8, top_p=0.95
  ),
  "eos_id": EOS,
  "pad_id": PAD,
}


@pytest.fixture(scope="module")
def draw(llama):
  """(params, prompts, keys, sizes or None) -> (Generated, steps)."""
  calls = []

  def counted(params, cache, tokens, positions, valid):
    if tokens.shape[1] == 1:
      jax.debug.callback(lambda: calls.append(None))
    return llama.model.extend(params, cache, tokens, positions, valid)

  model = llama.model._replace(extend=counted)

  @functools.cache
  def generator(sizes):
    if sizes is None:
      return generate_lib.make_generator(model, **_OPTIONS)
    return _refill(model, *sizes)

  def of(params, prompts, keys, sizes):
    calls.clear()
    generated = generator(sizes)(params, prompts, keys)
    generated = jax.tree.map(np.asarray, generated)
    jax.effects_barrier()
    return generated, len(calls)

  return of


def _refill(model, at_once, per_refill, page_size):
  return refill.make_generator(
    model,
    prompts_at_once=at_once,
    prompts_per_refill=per_refill,
    page_size=page_size,
    **_OPTIONS,
  )


def _keys(seed):
  return jax.random.split(jax.random.key(seed), B * K)


def _check_equal(got, want):
  for name, a, b in zip(got._fields, got, want):
    if name.endswith("logprobs"):
      np.testing.assert_allclose(a, b, atol=1e-5)
    else:
      np.testing.assert_array_equal(a, b)


def _steps(lengths, at_once, per_refill):
  """Of the schedule, prompt by prompt; a prompt's first token is no step."""
  queue = [int(of_prompt.max()) - 1 for of_prompt in lengths]
  groups, steps = [0] * min(at_once, len(queue)), 0
  while queue:
    wanted = min(per_refill, len(queue), len(groups))
    if sum(left == 0 for left in groups) >= wanted:
      for i, left in enumerate(groups):
        if left == 0 and wanted:
          groups[i], wanted = queue.pop(0), wanted - 1
      continue
    groups, steps = [max(left - 1, 0) for left in groups], steps + 1
  return steps + max(groups)


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
  sizes=st.sampled_from(SIZES),
  seed=st.integers(0, 999),
  order=st.permutations(range(B)),
)
def test_tokens_are_those_of_plain_sampling(llama, draw, sizes, seed, order):
  """In as many steps as the schedule says, for every order of the prompts."""
  order = np.array(order)
  keys = _keys(seed).reshape(B, K)[order].reshape(-1)
  want, _ = draw(llama.params, PROMPTS, _keys(seed), None)
  got, steps = draw(llama.params, PROMPTS[order], keys, sizes)
  _check_equal(got, jax.tree.map(lambda x: x[order], want))
  assert steps == _steps(got.lengths, *sizes[:2])


def test_long_responses_do_not_hold_up_short_ones(llama, draw):
  """Fewer steps than batches of as many prompts, which wait for the longest."""
  refilled = in_batches = 0
  for seed in range(8):
    generated, steps = draw(llama.params, PROMPTS, _keys(seed), SIZES[0])
    longest = generated.lengths.max(axis=1)
    refilled += steps
    in_batches += sum(longest[i : i + 3].max() - 1 for i in range(0, B, 3))
  assert refilled < 0.95 * in_batches


@pytest.mark.parametrize("logit, length", [(40.0, 1), (-40.0, R)])
def test_all_may_end_at_once_or_never(llama, draw, logit, length):
  params = jax.tree.map(jnp.zeros_like, llama.params)
  for name in ("embedding", "final_norm"):
    params[name] = jax.tree.map(jnp.ones_like, params[name])
  params["unembedding"] = params["unembedding"].at[:, EOS].set(logit)
  generated, steps = draw(params, PROMPTS, _keys(0), SIZES[0])
  assert (generated.lengths == length).all()
  assert (generated.ended == (length == 1)).all()
  assert steps == _steps(generated.lengths, *SIZES[0][:2])


def test_a_mesh_changes_nothing(llama, draw):
  """Groups over four devices, their heads over two."""
  model, params, _ = llama
  prompts = np.concatenate([PROMPTS, PROMPTS[:3]])
  keys = jax.random.split(jax.random.key(5), len(prompts) * K)
  want, _ = draw(params, prompts, keys, None)
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  got = _refill(model, 4, 1, 2)(
    jax.device_put(params, shardings),
    jax.device_put(prompts, rules.batch_sharding(mesh)),
    keys,
  )
  _check_equal(got, want)


def test_what_has_no_pages_is_refused(mt5, family_of):
  for model in (mt5.model, family_of("bloom").model):
    with pytest.raises(ValueError, match="set prompts_at_once to None"):
      _refill(model, 2, 1, 2)


def test_sizes_that_do_not_fit_are_refused(llama):
  with pytest.raises(ValueError, match="prompts_at_once 0.*at least 1"):
    _refill(llama.model, 0, 1, 2)
  with pytest.raises(ValueError, match="page_size 0"):
    _refill(llama.model, 2, 1, 0)
  with pytest.raises(ValueError, match="prompts_per_refill 3.*no more than"):
    _refill(llama.model, 2, 3, 2)


@pytest.mark.tpu
@pytest.mark.slow
def test_the_program_of_four_chips_neither_copies_nor_gathers_pages(
  monkeypatch,
):
  """Layers of Llama 8B's attention, groups over data, heads over tensor."""
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  config = dataclasses.replace(
    tiny_models.DECODER,
    d_model=512,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    activation_dtype="bfloat16",
  )
  model = decoder.build(config, backends=backends.TPU)
  mesh = ahead_of_time.mesh("v5p:2x2x1", (2, 1, 1, 1, 2), mesh_lib.AXES)
  params = jax.eval_shape(model.init, jax.random.key(0))
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  generate = refill.make_generator(
    model,
    prompts_at_once=16,
    prompts_per_refill=4,
    page_size=32,
    **{**_OPTIONS, "response_length": 1024, "samples_per_prompt": 4},
  )
  monkeypatch.setattr(prefill, "check_prompts", lambda *_: None)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  of_keys = jax.random.key(0).dtype
  compiled = (
    mesh_lib.jit(generate)
    .lower(
      jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        params,
        shardings,
      ),
      jax.ShapeDtypeStruct(
        (64, 1024), jnp.int32, sharding=rules.batch_sharding(mesh)
      ),
      jax.ShapeDtypeStruct((64 * 4,), of_keys, sharding=whole),
    )
    .compile()
  )
  # Of a device: groups, layers, pages of a group, slots, combined heads.
  by_group, flat = "8,2,164,32,8,128", f"{8 * 2 * 164},32,8,128"
  makers = re.findall(
    rf"= bf16\[(?:{by_group}|{flat})\]\S* ([a-z-]+)\(", compiled.as_text()
  )
  # Made once, and then written in place: by two of a prompt, one of a token.
  makers = collections.Counter(makers)
  for name in ("bitcast", "parameter", "get-tuple-element"):
    del makers[name]
  assert makers == {"broadcast": 1, "fusion": 3, "scatter": 3}
