import jax
import jax.numpy as jnp
import optax
import pytest

from mlm.checkpoints import params as params_lib


def _tree(**changes):
  leaf = jax.ShapeDtypeStruct
  return {
    "embedding": leaf((4096, 128), jnp.float32),
    "layers": {"mlp": {"kernel": leaf((4, 128, 384), jnp.float32)}},
    **changes,
  }


def test_equal_trees_pass():
  params_lib.check_arrays(_tree(), _tree(), where="checkpoint 3")


def test_every_difference_of_arrays_is_listed_and_nothing_else():
  expected = _tree(
    embedding=jax.ShapeDtypeStruct((8192, 128), jnp.float32),
    score=jax.ShapeDtypeStruct((128,), jnp.bfloat16),
  )
  with pytest.raises(ValueError) as error:
    params_lib.check_arrays(_tree(), expected, where="checkpoint runs/a/3")
  assert str(error.value).splitlines()[1:-1] == [
    "  embedding: checkpoint float32 [4096, 128], expected float32 [8192, 128]",
    "  score: checkpoint none, expected bfloat16 [128]",
  ]
  assert str(error.value).startswith("checkpoint runs/a/3 holds other arrays")


def test_named_tuples_and_dataclasses_compare_with_what_orbax_returns():
  """Orbax gives back dicts and lists for any container."""
  array = jax.ShapeDtypeStruct((2,), jnp.float32)
  state = (optax.EmptyState(), optax.ScaleByAdamState(array, array, array))
  found = [None, {"count": array, "mu": array, "nu": array}]
  params_lib.check_arrays(found, state, where="")
  with pytest.raises(ValueError, match="1/nu: checkpoint none"):
    params_lib.check_arrays(
      [None, {"count": array, "mu": array}], state, where=""
    )


def test_every_difference_of_metadata_is_listed():
  found = {"model": {"num_layers": 4, "d_model": 128}, "tokenizer": "3fa9"}
  expected = {
    "model": {"num_layers": 6, "d_model": 128},
    "tokenizer": "77ab",
    "name": "Kiswahili हिन्दी",
  }
  params_lib.check_metadata(found, dict(found), where="")
  with pytest.raises(ValueError) as error:
    params_lib.check_metadata(found, expected, where="checkpoint 9")
  assert str(error.value).splitlines()[1:-1] == [
    "  model/num_layers: checkpoint 4, expected 6",
    '  name: checkpoint none, expected "Kiswahili हिन्दी"',
    '  tokenizer: checkpoint "3fa9", expected "77ab"',
  ]
