"""Generation: agreement with the training forward, and independence of rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm.decoding import generate as generate_lib
from mlm.decoding import sampling as sampling_lib
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules

PAD, EOS = 0, 1
R, K = 7, 3
# Left-padded, as a decoder wants them; an encoder takes them as well.
PROMPTS = np.array(
  [[0, 0, 3, 4], [5, 6, 7, 8], [0, 9, 2, 3], [4, 4, 5, 5]], np.int32
)
GREEDY = sampling_lib.Sampling(
  forbidden_ids=(PAD,), min_tokens=0, temperature=0, top_k=None, top_p=1.0
)
SAMPLED = sampling_lib.Sampling(
  forbidden_ids=(PAD, 4), min_tokens=2, temperature=1.5, top_k=8, top_p=0.95
)


@functools.cache  # and so compiled once
def _generator(model, sampling=SAMPLED, samples=K, length=R):
  return generate_lib.make_generator(
    model,
    response_length=length,
    samples_per_prompt=samples,
    sampling=sampling,
    eos_id=EOS,
    pad_id=PAD,
  )


def _keys(samples=K):
  return jax.random.split(jax.random.key(3), len(PROMPTS) * samples)


def _rows(generated):
  """Fields as numpy, [B K, ...]."""
  return generate_lib.Generated(
    *(np.asarray(x).reshape(-1, *x.shape[2:]) for x in generated)
  )


def _check_ends(got):
  """Lengths and flags tell where EOS is, and only padding follows it."""
  for tokens, length, ended in zip(got.tokens, got.lengths, got.ended):
    assert ended == (EOS in tokens)
    assert length == (tokens.tolist().index(EOS) + 1 if ended else R)
    assert (tokens[length:] == PAD).all()
  is_padding = np.arange(R) >= got.lengths[:, None]
  assert (got.model_logprobs[is_padding] == 0).all()
  assert (got.sampling_logprobs[is_padding] == 0).all()


def test_greedy_is_the_argmax_on_the_growing_sequence(family):
  generate = _generator(family.model, GREEDY, samples=2)
  got = _rows(generate(family.params, PROMPTS, _keys(2)))
  logits = family.forward(np.repeat(PROMPTS, 2, axis=0), got.tokens)
  logits = np.where(np.arange(12) == PAD, -np.inf, logits)
  is_real = np.arange(R) < got.lengths[:, None]
  np.testing.assert_array_equal(
    got.tokens[is_real], logits.argmax(axis=-1)[is_real]
  )
  assert (got.sampling_logprobs == 0).all()
  _check_ends(got)


def test_logprobs_are_those_of_the_training_forward(family):
  got = _rows(_generator(family.model)(family.params, PROMPTS, _keys()))
  logits = family.forward(np.repeat(PROMPTS, K, axis=0), got.tokens)
  by_model = np.asarray(jax.nn.log_softmax(logits))
  drawn_from = np.stack(
    [
      sampling_lib.log_distribution(
        jnp.asarray(logits[:, t]), t, sampling=SAMPLED, eos_id=EOS
      )
      for t in range(R)
    ],
    axis=1,
  )
  is_real = np.arange(R) < got.lengths[:, None]
  for returned, table in (
    (got.model_logprobs, by_model),
    (got.sampling_logprobs, drawn_from),
  ):
    want = np.take_along_axis(table, got.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(returned[is_real], want[is_real], atol=1e-5)
  assert not (got.tokens[:, :2] == EOS).any()
  assert not (got.tokens == 4).any()
  _check_ends(got)
  assert 0 < got.ended.sum() < len(got.ended)


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_bfloat16_decodes_as_near_to_its_forward_as_it_rounds(family_of, name):
  exact, half = (
    family_of(name, activation_dtype=dtype) for dtype in ("float32", "bfloat16")
  )
  got = _rows(_generator(half.model)(half.params, PROMPTS, _keys()))
  is_real = np.arange(R) < got.lengths[:, None]

  def error(one, other):
    return np.abs(one - other)[is_real].max()

  by_forward, by_exact = (
    np.take_along_axis(
      np.asarray(
        jax.nn.log_softmax(
          of.forward(np.repeat(PROMPTS, K, axis=0), got.tokens)
        )
      ),
      got.tokens[..., None],
      axis=-1,
    )[..., 0]
    for of in (half, exact)
  )
  rounding = error(by_forward, by_exact)
  assert 1e-4 < rounding < 0.1
  assert error(got.model_logprobs, by_forward) < 2 * rounding


def test_a_sample_is_as_if_drawn_alone(family):
  """Not of the other rows, the padding, or the k that share its prompt."""
  together = _rows(_generator(family.model)(family.params, PROMPTS, _keys()))
  generate = _generator(family.model, samples=1)
  wider = np.pad(PROMPTS, ((0, 0), (3, 0)))
  for row, key in enumerate(_keys()):
    prompt = wider[row // K : row // K + 1]
    alone = _rows(generate(family.params, prompt, key[None]))
    for got, want in zip(alone, together):
      np.testing.assert_allclose(got[0], want[row], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_a_mesh_changes_nothing(name, request):
  model, params, _ = request.getfixturevalue(name)
  want = _generator(model)(params, PROMPTS, _keys())
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  shardings = rules.named_shardings(mesh, model.logical_axes(), params)
  with jax.set_mesh(mesh):
    got = _generator(model)(
      jax.device_put(params, shardings),
      jax.device_put(PROMPTS, rules.batch_sharding(mesh)),
      _keys(),
    )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_loop_stops_when_all_have_ended(llama):
  calls = []

  def counted(*arguments):
    jax.debug.callback(lambda: calls.append(None))
    return llama.model.extend(*arguments)

  model = llama.model._replace(extend=counted)
  others = tuple(i for i in range(12) if i != EOS)
  for forbidden, extended in ((others, 1), ((EOS,), R)):
    sampling = sampling_lib.Sampling(
      forbidden_ids=forbidden,
      min_tokens=0,
      temperature=1.0,
      top_k=None,
      top_p=1.0,
    )
    calls.clear()
    generated = _generator(model, sampling)(llama.params, PROMPTS, _keys())
    jax.block_until_ready(generated)
    jax.effects_barrier()
    assert len(calls) == extended


def test_sizes_below_one_are_refused(llama):
  with pytest.raises(ValueError, match="samples_per_prompt 0 must be at least"):
    _generator(llama.model, samples=0)
  with pytest.raises(ValueError, match="response_length 0"):
    _generator(llama.model, length=0)


def test_prompts_that_cannot_be_continued_are_refused(llama, mt5):
  empty = PROMPTS * (np.arange(4) != 2)[:, None]
  for model, params, _ in (llama, mt5):
    with pytest.raises(ValueError, match="only pad_id 0"):
      _generator(model)(params, empty, _keys())
    with pytest.raises(ValueError, match="only pad_id 0"):
      _generator(model)(params, jnp.asarray(empty), _keys())
  with pytest.raises(ValueError, match="pad prompts on the left"):
    _generator(llama.model)(llama.params, PROMPTS[:, ::-1], _keys())
