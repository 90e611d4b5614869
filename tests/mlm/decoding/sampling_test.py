"""Sampling: cut-offs against numpy, draws against the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mlm.decoding import sampling as sampling_lib

EOS = 1
NOTHING = {
  "forbidden_ids": (),
  "min_tokens": 0,
  "temperature": 1.0,
  "top_k": None,
  "top_p": 1.0,
}


def _log_distribution(logits, t=0, **changed):
  return np.asarray(
    sampling_lib.log_distribution(
      jnp.asarray(logits, jnp.float32),
      t,
      sampling=sampling_lib.Sampling(**{**NOTHING, **changed}),
      eos_id=EOS,
    )
  )


def _reference(logits, t=0, **changed):
  """One row, written again from the definitions, token by token."""
  s = {**NOTHING, **changed}
  kept = [i for i in range(len(logits)) if i not in s["forbidden_ids"]]
  if t < s["min_tokens"]:
    kept = [i for i in kept if i != EOS]
  logits = np.asarray(logits, np.float64) / s["temperature"]
  ordered = sorted(kept, key=lambda i: -logits[i])
  if s["top_k"] is not None:
    last = logits[ordered[s["top_k"] - 1]]
    ordered = [i for i in ordered if logits[i] >= last]
  p = np.exp([logits[i] for i in ordered])
  p /= p.sum()
  stay, mass = [], 0.0
  for i, p_i in zip(ordered, p):
    is_equal_to_last = stay and logits[i] == logits[stay[-1]]
    if s["top_p"] == 1 or mass < s["top_p"] or is_equal_to_last:
      stay.append(i)
    mass += p_i
  out = np.full(len(logits), -np.inf)
  p = np.exp(logits[stay])
  out[stay] = np.log(p / p.sum())
  return out


@pytest.mark.parametrize(
  "changed",
  [
    {},
    {"temperature": 0.3},
    {"temperature": 5.0, "top_k": 1},
    {"top_k": 7},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"top_k": 9, "top_p": 0.8, "temperature": 1.7},
    {"forbidden_ids": (0, 4, 19), "top_k": 3},
    {"min_tokens": 3, "top_p": 0.9},
  ],
  ids=str,
)
@pytest.mark.parametrize("t", [0, 3])
def test_distributions_are_those_of_the_definitions(changed, t):
  logits = np.random.default_rng(0).normal(0, 3, (30, 20)).astype(np.float32)
  logits[:, EOS] += 3
  got = _log_distribution(logits, t, **changed)
  want = np.array([_reference(row, t, **changed) for row in logits])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_tokens_equal_to_the_last_that_stays_stay_too():
  logits = np.log([4.0, 2.0, 1.0, 2.0, 1.0])
  for changed in ({"top_k": 2}, {"top_p": 0.5}):
    got = np.exp(_log_distribution(logits, **changed))
    np.testing.assert_allclose(got, [0.5, 0.25, 0, 0.25, 0], atol=1e-6)


def test_greedy_takes_the_lowest_of_equal_ids():
  got = _log_distribution([0.0, 5.0, 5.0], temperature=0)
  np.testing.assert_array_equal(got, [-np.inf, 0, -np.inf])


def test_bfloat16_logits_are_handled_in_float32():
  logits = jnp.arange(4, dtype=jnp.bfloat16)
  sampling = sampling_lib.Sampling(**{**NOTHING, "temperature": 0.7})
  got = sampling_lib.log_distribution(logits, 0, sampling=sampling, eos_id=EOS)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(
    got, _reference(np.arange(4.0), temperature=0.7), rtol=1e-5
  )


def test_draws_follow_the_distribution():
  """Chi-squared at fixed keys; a true null fails one seed in a thousand."""
  num_draws = 20_000
  logits = np.random.default_rng(1).normal(0, 1.5, 15)
  logprobs = _log_distribution(logits, temperature=0.8, top_k=10, top_p=0.9)
  keys = jax.random.split(jax.random.key(0), num_draws)
  rows = jnp.broadcast_to(logprobs, (num_draws, 15))
  for t in (0, 7):
    drawn = np.asarray(sampling_lib.draw(keys, rows, t))
    counts = np.bincount(drawn, minlength=15)
    stays = np.isfinite(logprobs)
    assert counts[~stays].sum() == 0
    expected = np.exp(logprobs[stays].astype(np.float64))
    expected *= num_draws / expected.sum()
    assert scipy.stats.chisquare(counts[stays], expected).pvalue > 1e-3


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"temperature": -0.5}, r"temperature -0.5 must be 0 \(greedy\)"),
    ({"temperature": float("nan")}, "temperature nan"),
    ({"top_k": 0}, "top_k 0 must be at least 1"),
    ({"top_p": 0.0}, r"top_p 0.0 must be in \(0, 1\]"),
    ({"top_p": 1.5}, "top_p 1.5"),
    ({"min_tokens": -1}, "min_tokens -1"),
    ({"forbidden_ids": (2, -1)}, "ids start at 0"),
    ({"forbidden_ids": (3,)}, "vocabulary ends at 2"),
    ({"top_k": 4}, "top_k 4 exceeds the vocabulary of 3"),
  ],
  ids=str,
)
def test_what_cannot_be_is_refused(changed, message):
  with pytest.raises(ValueError, match=message):
    _log_distribution(np.zeros(3), **changed)
