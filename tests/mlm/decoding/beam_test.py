"""Beam search against enumeration, a plain search, and greedy decoding."""

import itertools

import jax
import numpy as np
import pytest

from mlm.decoding import beam
from mlm.decoding import generate as generate_lib
from mlm.decoding import sampling as sampling_lib

PAD, EOS = 0, 1
V = 4  # of the enumerated models
PROMPTS = np.array([[0, 0, 3, 2], [2, 3, 2, 3], [0, 3, 3, 3]], np.int32)


@pytest.fixture(scope="module", params=["llama", "mt5"])
def small(request, family_of):
  return family_of(request.param, vocab_size=V)


def _search(model, *, length, beams, alpha):
  return beam.make_beam_search(
    model,
    response_length=length,
    num_beams=beams,
    length_alpha=alpha,
    eos_id=EOS,
    pad_id=PAD,
  )


def _logprobs(family, prompt, responses):
  """[N, R, V] of responses to one prompt."""
  rows = np.repeat(prompt[None], len(responses), axis=0)
  return np.asarray(jax.nn.log_softmax(family.forward(rows, responses)))


def _penalty(length, alpha):
  return ((5 + length) / 6) ** alpha


def _enumerate(family, prompt, length, alpha):
  """All responses with their scores, best first."""
  grid = np.array(
    list(itertools.product(range(V), repeat=length)), dtype=np.int32
  )
  found = {}
  for row, logprobs in zip(grid, _logprobs(family, prompt, grid)):
    response = row.tolist()
    if EOS in response:
      response = response[: response.index(EOS) + 1]
    total = sum(logprobs[t, token] for t, token in enumerate(response))
    found[tuple(response)] = total / _penalty(len(response), alpha)
  return sorted(found.items(), key=lambda item: -item[1])


def test_a_beam_as_wide_as_the_space_finds_its_best_in_order(small):
  """40 responses of up to three tokens; pad_id may be one of them."""
  length, alpha = 3, 1.5
  search = _search(small.model, length=length, beams=V**length, alpha=alpha)
  got = search(small.params, PROMPTS)
  for row, prompt in enumerate(PROMPTS):
    want = _enumerate(small, prompt, length, alpha)
    scores = np.asarray(got.scores[row])
    np.testing.assert_allclose(
      scores[: len(want)], [score for _, score in want], atol=2e-5
    )
    assert np.isneginf(scores[len(want) :]).all()
    for rank, (response, _) in enumerate(want[:5]):
      assert got.lengths[row, rank] == len(response)
      assert got.ended[row, rank] == (response[-1] == EOS)
      padded = [*response, *[PAD] * (length - len(response))]
      np.testing.assert_array_equal(got.tokens[row, rank], padded)


def _plain_search(family, prompt, *, length, beams, alpha):
  """The same rules in lists, each step from the whole forward, to the end."""
  live, finished = [((), 0.0)], []
  for t in range(length):
    responses = np.zeros((beams, length), np.int32)
    for row, (tokens, _) in zip(responses, live):
      row[:t] = tokens
    table = _logprobs(family, prompt, responses)[:, t]
    candidates = [
      ((*tokens, token), total + logprob)
      for (tokens, total), row in zip(live, table)
      for token, logprob in enumerate(row)
    ]
    candidates.sort(key=lambda c: -c[1])
    live = []
    for rank, (tokens, total) in enumerate(candidates[: 2 * beams]):
      if tokens[-1] != EOS and t + 1 < length:
        live.append((tokens, total))
      elif rank < beams:
        finished.append((tokens, total / _penalty(t + 1, alpha)))
    live = live[:beams]
  return sorted(finished, key=lambda f: -f[1])[:beams]


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_stopping_early_and_the_cache_change_nothing(alpha, llama):
  got = _search(llama.model, length=8, beams=3, alpha=alpha)(
    llama.params, PROMPTS
  )
  for row, prompt in enumerate(PROMPTS):
    want = _plain_search(llama, prompt, length=8, beams=3, alpha=alpha)
    np.testing.assert_allclose(
      got.scores[row], [score for _, score in want], atol=2e-5
    )
    for rank, (response, _) in enumerate(want):
      np.testing.assert_array_equal(
        got.tokens[row, rank, : len(response)], response
      )


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_one_beam_is_greedy(name, request):
  family = request.getfixturevalue(name)
  beams = _search(family.model, length=6, beams=1, alpha=0.0)(
    family.params, PROMPTS
  )
  greedy = generate_lib.make_generator(
    family.model,
    response_length=6,
    samples_per_prompt=1,
    sampling=sampling_lib.Sampling(
      forbidden_ids=(), min_tokens=0, temperature=0, top_k=None, top_p=1.0
    ),
    eos_id=EOS,
    pad_id=PAD,
  )(family.params, PROMPTS, jax.random.split(jax.random.key(0), len(PROMPTS)))
  for name in ("tokens", "lengths", "ended"):
    np.testing.assert_array_equal(getattr(beams, name), getattr(greedy, name))
  np.testing.assert_allclose(
    beams.scores[:, 0], greedy.model_logprobs[:, 0].sum(axis=-1), atol=1e-5
  )


def test_the_search_stops_when_no_beam_can_win(family_of):
  """Four tokens, one of them EOS: the best responses are short."""
  small, calls = family_of("llama", vocab_size=V), []

  def counted(*arguments):
    jax.debug.callback(lambda: calls.append(None))
    return small.model.extend(*arguments)

  model = small.model._replace(extend=counted)
  search = _search(model, length=40, beams=2, alpha=0.0)
  got = jax.block_until_ready(search(small.params, PROMPTS))
  jax.effects_barrier()
  assert got.ended.all()
  assert got.lengths.max() <= len(calls) < 40


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"beams": 0}, "num_beams 0 must be at least 1"),
    ({"length": 0}, "response_length 0"),
    ({"alpha": -0.1}, "length_alpha -0.1 must be 0 or more"),
  ],
  ids=str,
)
def test_what_cannot_be_is_refused(changed, message, llama):
  with pytest.raises(ValueError, match=message):
    _search(llama.model, **{"length": 3, "beams": 2, "alpha": 0.6, **changed})


def test_an_empty_prompt_is_refused(llama):
  search = _search(llama.model, length=3, beams=2, alpha=0.6)
  with pytest.raises(ValueError, match="only pad_id 0"):
    search(llama.params, PROMPTS * 0)
