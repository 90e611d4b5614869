"""Buckets of distances: closed forms in whole numbers."""

import numpy as np
import pytest

from kernels.relative_attention import buckets


def _bucket(delta, *, is_causal, num_buckets=32, max_distance=128):
  return buckets.bucket(
    np.asarray(delta),
    num_buckets=num_buckets,
    max_distance=max_distance,
    is_causal=is_causal,
  )


def test_causal_buckets_of_t5():
  """16 exact ones, then k more where (n / 16)^16 >= 8^k, up to 31."""
  distance = list(range(300))
  want = [
    n
    if n < 16
    else min(31, 16 + max(k for k in range(99) if n**16 >= 16**16 * 8**k))
    for n in distance
  ]
  np.testing.assert_array_equal(
    _bucket([-n for n in distance], is_causal=True), want
  )
  np.testing.assert_array_equal(_bucket([1, 5, 500], is_causal=True), 0)


def test_bidirectional_buckets_of_t5():
  """8 exact ones a side, then k more where (n / 8)^8 >= 16^k, up to 15."""
  distance = list(range(300))
  want = np.array(
    [
      n
      if n < 8
      else min(15, 8 + max(k for k in range(99) if n**8 >= 8**8 * 16**k))
      for n in distance
    ]
  )
  delta = np.arange(300)
  np.testing.assert_array_equal(_bucket(-delta, is_causal=False), want)
  np.testing.assert_array_equal(
    _bucket(delta[1:], is_causal=False), want[1:] + 16
  )


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("num_buckets, max_distance", [(4, 9), (32, 128)])
def test_beyond_the_distance_there_is_one_bucket_a_side(
  num_buckets, max_distance, is_causal
):
  delta = np.arange(max_distance, 5 * max_distance)
  for sign in (-1, 1):
    found = _bucket(
      sign * delta,
      is_causal=is_causal,
      num_buckets=num_buckets,
      max_distance=max_distance,
    )
    assert len(set(found)) == 1


def test_too_few_buckets_are_refused():
  with pytest.raises(ValueError, match="2 buckets do not suit"):
    _bucket([0], is_causal=False, num_buckets=2)
  with pytest.raises(ValueError, match="a distance above 8"):
    _bucket([0], is_causal=False, max_distance=8)
