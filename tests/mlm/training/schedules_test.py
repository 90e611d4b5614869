import math

import numpy as np
import optax
import pytest

from mlm.training import schedules


def test_warmup_cosine_follows_the_formula_at_every_step():
  rate = schedules.warmup_cosine(
    peak=0.4, warmup_steps=4, num_steps=20, final_fraction=0.1
  )
  for step in range(25):
    if step < 4:
      expected = 0.4 * (step + 1) / 4
    else:
      progress = min((step - 4) / 16, 1)
      expected = 0.04 + 0.36 * (1 + math.cos(math.pi * progress)) / 2
    assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_warmup_cosine_without_warmup_agrees_with_optax():
  rate = schedules.warmup_cosine(
    peak=3e-3, warmup_steps=0, num_steps=50, final_fraction=0.05
  )
  expected = optax.cosine_decay_schedule(3e-3, decay_steps=50, alpha=0.05)
  steps = np.arange(60)
  np.testing.assert_allclose(rate(steps), expected(steps), rtol=1e-5)


def test_constant_with_warmup_ramps_and_stays():
  rate = schedules.constant_with_warmup(peak=1e-2, warmup_steps=5)
  expected = [0.002, 0.004, 0.006, 0.008, 0.01, 0.01, 0.01]
  np.testing.assert_allclose(rate(np.arange(7)), expected, rtol=1e-6)


@pytest.mark.parametrize(
  "values",
  [
    dict(peak=0.0, warmup_steps=1, num_steps=5, final_fraction=0.1),
    dict(peak=1.0, warmup_steps=-1, num_steps=5, final_fraction=0.1),
    dict(peak=1.0, warmup_steps=5, num_steps=5, final_fraction=0.1),
    dict(peak=1.0, warmup_steps=1, num_steps=5, final_fraction=1.1),
  ],
)
def test_schedule_out_of_range_is_an_error(values):
  with pytest.raises(ValueError, match="must be"):
    schedules.warmup_cosine(**values)


def test_inverse_square_root_is_flat_and_then_falls():
  rate = schedules.inverse_square_root(base=2.0, warmup_steps=4)
  expected = [1.0, 1.0, 1.0, 1.0, 1.0, 2 / math.sqrt(5), 2 / math.sqrt(6)]
  np.testing.assert_allclose(
    [rate(step) for step in range(7)], expected, rtol=1e-6
  )
  with pytest.raises(ValueError, match="warmup_steps 0"):
    schedules.inverse_square_root(base=1.0, warmup_steps=0)


def test_warmup_stable_decay_agrees_with_optax_and_goes_on_from_its_middle():
  def rate(num_steps):
    return schedules.warmup_stable_decay(
      peak=0.5,
      warmup_steps=4,
      num_steps=num_steps,
      decay_steps=10,
      final_fraction=0.1,
    )

  expected = optax.join_schedules(
    [
      # Ours is at the peak one step earlier, and never at 0.
      optax.linear_schedule(0.125, 0.5, 3),
      optax.constant_schedule(0.5),
      optax.linear_schedule(0.5, 0.05, 10),
    ],
    [3, 30],
  )
  steps = np.arange(50)
  np.testing.assert_allclose(
    rate(40)(steps), [expected(step) for step in steps], rtol=1e-6
  )
  np.testing.assert_array_equal(rate(40)(steps[:30]), rate(400)(steps[:30]))


def test_decay_that_does_not_fit_is_an_error():
  with pytest.raises(ValueError, match="fit into num_steps 12"):
    schedules.warmup_stable_decay(
      peak=1.0, warmup_steps=3, num_steps=12, decay_steps=10, final_fraction=0
    )
