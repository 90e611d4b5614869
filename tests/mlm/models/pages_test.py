"""Pages: what rows share, what they copy, and how many bytes that takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import ahead_of_time
from mlm.models import backends, decoder, pages
from mlm.sharding import mesh as mesh_lib
from tests import tiny_models

P, R, K, S = 11, 6, 3, 4
CONFIG = dataclasses.replace(tiny_models.DECODER, vocab_size=16)
LENGTHS = np.array([11, 8, 3, 1])
FILL = jax.jit(pages.fill)


def _prompts():
  """A cache of left-padded prompts in which every number is another one."""
  model = decoder.build(CONFIG)
  cache = model.init_cache(len(LENGTHS), P)
  numbers = 1.0 + np.arange(cache["keys"].size).reshape(cache["keys"].shape)
  valid = np.arange(P) >= P - LENGTHS[:, None]
  return {
    **cache,
    "keys": jnp.asarray(numbers, jnp.float32),
    "values": jnp.asarray(-numbers, jnp.float32),
    "valid": jnp.asarray(valid),
  }


def _empty(num_groups):
  return decoder.build(CONFIG).init_pages(
    num_groups=num_groups,
    rows_per_group=K,
    prompt_length=P,
    response_length=R,
    page_size=S,
  )


def _tokens(cache, row, layer):
  """Keys of a row, [length, K, H], and values."""
  _, _, pages_per_layer = cache["pages"].shape[:3]
  flat = np.asarray(cache["pages"]).reshape(-1, *cache["pages"].shape[3:])
  table = np.asarray(cache["table"][row]) + layer * pages_per_layer
  combined = np.concatenate(flat[table])[: int(cache["lengths"][row])]
  return combined[:, 0::2], combined[:, 1::2]


def test_rows_have_their_prompt_from_slot_0_on():
  """Groups are filled in any order, a prompt without one is left out."""
  prompts = _prompts()
  groups = np.array([2, 0, 3, 1])
  cache = FILL(_empty(3), prompts, jnp.asarray(groups))
  for prompt, (group, length) in enumerate(zip(groups, LENGTHS)):
    if group == 3:
      continue
    for row in range(group * K, (group + 1) * K):
      assert cache["lengths"][row] == length
      for layer in range(CONFIG.num_layers):
        for name, got in zip(("keys", "values"), _tokens(cache, row, layer)):
          np.testing.assert_array_equal(
            got, prompts[name][layer, prompt, P - length :]
          )


def test_rows_share_full_pages_and_write_to_their_own():
  groups = jnp.arange(len(LENGTHS))
  cache = FILL(_empty(len(LENGTHS)), _prompts(), groups)
  table = np.asarray(cache["table"]).reshape(len(LENGTHS), K, -1)
  written = []
  for of_prompt, length in zip(table, LENGTHS):
    full = length // S
    assert (of_prompt[:, :full] == of_prompt[0, :full]).all()
    # From the page of a row's next token to that of its last.
    written += of_prompt[:, full : -(-(length + R) // S)].ravel().tolist()
  assert len(set(written)) == len(written)
  shared = {
    page for rows, n in zip(table, LENGTHS // S) for page in rows[0, :n]
  }
  assert not shared & set(written)


def test_sharing_takes_fewer_bytes_than_a_prompt_for_each_row():
  sizes = {"prompt_length": 1024, "response_length": 256, "page_size": 32}
  model = decoder.build(CONFIG)
  cache = jax.eval_shape(
    lambda: model.init_pages(num_groups=2, rows_per_group=8, **sizes)
  )
  repeated = jax.eval_shape(lambda: model.init_cache(2 * 8, 1024 + 256))
  assert cache["pages"].size < 0.35 * 2 * repeated["keys"].size


def test_more_than_a_token_a_row_is_refused():
  model, tokens = decoder.build(CONFIG), jnp.zeros((K, 2), jnp.int32)
  with pytest.raises(ValueError, match="2 tokens a row .* one at a time"):
    model.extend(None, _empty(1), tokens, tokens, tokens == 0)


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("chip", [ahead_of_time.V5P, ahead_of_time.V6E])
def test_a_step_of_llama_8b_writes_its_pages_where_they_are(chip):
  """16 prompts of 1,024 tokens, 4 responses of as many to each, on one chip."""
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  mesh = ahead_of_time.mesh(
    chip.topology, (1,) * len(mesh_lib.AXES), mesh_lib.AXES
  )
  config = dataclasses.replace(
    tiny_models.DECODER,
    vocab_size=128256,
    num_layers=32,
    d_model=4096,
    d_ff=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    activation_dtype="bfloat16",
  )
  model = decoder.build(config, backends=backends.TPU)
  sizes = {"prompt_length": 1024, "response_length": 1024, "page_size": 32}
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def on_chip(make, dtype=None):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=whole),
      jax.eval_shape(make),
    )

  cache = on_chip(
    lambda: model.init_pages(num_groups=16, rows_per_group=4, **sizes)
  )
  repeated = jax.eval_shape(lambda: model.init_cache(64, 2048))

  def step(params, cache, tokens):
    return model.extend(
      params,
      cache,
      tokens,
      cache["lengths"][:, None],
      jnp.ones_like(tokens, bool),
    )

  needs = ahead_of_time.needs(
    mesh_lib.jit(step, donate_argnums=1).lower(
      on_chip(lambda: model.init(jax.random.key(0)), jnp.bfloat16),
      cache,
      on_chip(lambda: jnp.zeros((64, 1), jnp.int32)),
    )
  )
  num_bytes, of_repeated = (
    sum(2 * x.size for x in of)
    for of in ((cache["pages"],), (repeated["keys"], repeated["values"]))
  )
  print(
    f"Llama 8B on {chip.name}: {needs}; pages {num_bytes / 2**30:.2f} GiB, "
    f"prompts repeated {of_repeated / 2**30:.2f}"
  )
  assert needs.temporaries < 0.01 * num_bytes
  assert num_bytes < 0.65 * of_repeated
