"""Position encodings against their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.relative_attention import buckets
from mlm.models import position_encodings

ROTATE = (position_encodings.rotate_halves, position_encodings.rotate_pairs)
LLAMA_31 = {"factor": 8.0, "low": 1.0, "high": 4.0, "original_length": 8192}


@pytest.mark.parametrize("rotate", ROTATE)
def test_rotary_scores_depend_on_the_distance_alone(rotate):
  query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, 8))
  frequencies = position_encodings.rotary_frequencies(
    8, theta=100.0, scaling=None
  )

  def score(i, j):
    at = [jnp.array([[n]]) for n in (i, j)]
    rotated = [
      rotate(x, p, frequencies=frequencies) for x, p in zip((query, key), at)
    ]
    return float((rotated[0] * rotated[1]).sum())

  assert score(5, 2) == pytest.approx(score(13, 10), abs=1e-5)
  assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-3)


def test_the_two_rotary_layouts_are_permutations_of_each_other():
  x = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
  positions = np.array([[0, 1, 2], [5, 900, 7]])
  frequencies = position_encodings.rotary_frequencies(
    8, theta=100.0, scaling=None
  )
  halves, pairs = (
    lambda y, f=f: np.asarray(f(y, positions, frequencies=frequencies))
    for f in ROTATE
  )
  interleave = np.arange(8).reshape(2, 4).T.reshape(-1)  # 0 4 1 5 …
  np.testing.assert_array_equal(
    pairs(x[..., interleave]), halves(x)[..., interleave]
  )


def test_llama_31_scaling_keeps_short_waves_and_stretches_long_ones():
  plain, scaled = (
    position_encodings.rotary_frequencies(128, theta=5e5, scaling=scaling)
    for scaling in (None, LLAMA_31)
  )
  wavelengths = 2 * math.pi / plain.astype(np.float64)
  kept, stretched = wavelengths < 2048, wavelengths > 8192
  between = ~kept & ~stretched
  assert kept.sum() > 20 and stretched.sum() > 20 and between.sum() > 2
  np.testing.assert_array_equal(scaled[kept], plain[kept])
  np.testing.assert_array_equal(scaled[stretched], plain[stretched] / 8)
  share = (8192 / wavelengths[between] - 1) / 3
  want = (1 - share) * plain[between] / 8 + share * plain[between]
  np.testing.assert_allclose(scaled[between], want, rtol=1e-6)


def test_alibi_slopes_of_powers_of_two_and_of_other_numbers():
  eight = [2.0**-i for i in range(1, 9)]  # Press et al., section 3
  np.testing.assert_array_equal(position_encodings.alibi_slopes(8), eight)
  slopes = position_encodings.alibi_slopes(112)  # BLOOM's
  np.testing.assert_array_equal(
    slopes[:64], position_encodings.alibi_slopes(64)
  )
  np.testing.assert_array_equal(
    slopes[64:], position_encodings.alibi_slopes(128)[:96:2]
  )


def _bucket(distance, is_bidirectional, num_buckets, max_distance):
  """The published formula in double precision, guarded at whole numbers."""
  bucket = 0
  if is_bidirectional:
    num_buckets //= 2
    bucket = num_buckets if distance > 0 else 0
    n = abs(distance)
  else:
    n = max(-distance, 0)
  exact = num_buckets // 2
  if n < exact:
    return bucket + n
  share = math.log(n / exact) / math.log(max_distance / exact)
  far = exact + math.floor(share * (num_buckets - exact) + 1e-9)
  return bucket + min(far, num_buckets - 1)


@pytest.mark.parametrize("is_bidirectional", [True, False])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 20)])
def test_relative_buckets_are_exact_near_and_logarithmic_far(
  is_bidirectional, sizes
):
  distances = np.arange(-300, 301)
  num_buckets, max_distance = sizes
  got = position_encodings.relative_buckets(
    jnp.asarray(distances),
    is_bidirectional=is_bidirectional,
    num_buckets=num_buckets,
    max_distance=max_distance,
  )
  want = [_bucket(n, is_bidirectional, *sizes) for n in distances.tolist()]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 12), (64, 256), (32, 20)])
def test_relative_buckets_are_those_of_the_kernel(sizes, is_causal):
  """Plain and fused attention are one model."""
  num_buckets, max_distance = sizes
  options = {"num_buckets": num_buckets, "max_distance": max_distance}
  distance = np.arange(-600, 600)
  np.testing.assert_array_equal(
    position_encodings.relative_buckets(
      distance, is_bidirectional=not is_causal, **options
    ),
    buckets.bucket(distance, is_causal=is_causal, **options),
  )
