import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm.training import optimizers

SETTINGS = dict(
  beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, max_grad_norm=1.0
)


def test_warmup_cosine_follows_the_formula_at_every_step():
  rate = optimizers.warmup_cosine(
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
  rate = optimizers.warmup_cosine(
    peak=3e-3, warmup_steps=0, num_steps=50, final_fraction=0.05
  )
  expected = optax.cosine_decay_schedule(3e-3, decay_steps=50, alpha=0.05)
  steps = np.arange(60)
  np.testing.assert_allclose(rate(steps), expected(steps), rtol=1e-5)


def test_constant_with_warmup_ramps_and_stays():
  rate = optimizers.constant_with_warmup(peak=1e-2, warmup_steps=5)
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
    optimizers.warmup_cosine(**values)


def test_adamw_follows_the_paper_over_steps():
  """Five steps against the algorithm written out in float64 numpy."""
  rate = optimizers.constant_with_warmup(peak=1e-2, warmup_steps=3)
  optimizer = optimizers.adamw(learning_rate=rate, **SETTINGS)
  generator = np.random.default_rng(0)
  shapes = {"kernel": (3, 4), "scale": (2, 4), "bias": (4,)}
  params = {k: generator.normal(size=s) for k, s in shapes.items()}
  moments = {k: (np.zeros(s), np.zeros(s)) for k, s in shapes.items()}
  on_device = jax.tree.map(jnp.float32, params)
  state = optimizer.init(on_device)
  for step in range(5):
    # From a norm well below the limit to one well above it.
    grads = {
      k: generator.normal(size=s) * 0.05 * 4**step for k, s in shapes.items()
    }
    norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
    for name, grad in grads.items():
      grad = grad * min(1, 1 / norm)
      m, v = moments[name]
      m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2
      moments[name] = m, v
      m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.95 ** (step + 1))
      update = m_hat / (np.sqrt(v_hat) + 1e-8)
      if name == "kernel":
        update = update + 0.1 * params[name]
      learning_rate = 1e-2 * min(1, (step + 1) / 3)
      params[name] = params[name] - learning_rate * update
    updates, state = optimizer.update(
      jax.tree.map(jnp.float32, grads), state, on_device
    )
    on_device = optax.apply_updates(on_device, updates)
  for name in shapes:
    np.testing.assert_allclose(on_device[name], params[name], rtol=2e-5)


def test_weight_decay_spares_scales_and_vectors():
  params = {
    "embedding": jnp.ones((4, 2)),
    "layers": {
      "norm": {"scale": jnp.ones((3, 2))},
      "mlp": {"kernel": jnp.ones((3, 2, 2))},
    },
    "score": jnp.ones(2),
    "std": jnp.ones(()),
  }
  assert optimizers.decayed(params) == {
    "embedding": True,
    "layers": {"norm": {"scale": False}, "mlp": {"kernel": True}},
    "score": False,
    "std": False,
  }


@pytest.mark.parametrize(
  "change",
  [{"beta1": 1.0}, {"beta2": -0.1}, {"weight_decay": -1}, {"max_grad_norm": 0}],
)
def test_adamw_out_of_range_is_an_error(change):
  with pytest.raises(ValueError, match="must be"):
    optimizers.adamw(learning_rate=lambda step: 1.0, **{**SETTINGS, **change})


def test_inverse_square_root_is_flat_and_then_falls():
  rate = optimizers.inverse_square_root(base=2.0, warmup_steps=4)
  expected = [1.0, 1.0, 1.0, 1.0, 1.0, 2 / math.sqrt(5), 2 / math.sqrt(6)]
  np.testing.assert_allclose(
    [rate(step) for step in range(7)], expected, rtol=1e-6
  )
  with pytest.raises(ValueError, match="warmup_steps 0"):
    optimizers.inverse_square_root(base=1.0, warmup_steps=0)


ADAFACTOR = dict(
  learning_rate=lambda step: 0.1 / (1 + step),
  decay_exponent=0.8,
  clipping_threshold=1.0,
  min_dim_size_to_factor=4,
)
AXES = {
  "embedding": ("vocab", "embed"),
  "query": ("layers", "embed", "heads", "head_width"),
  "out": ("layers", "heads", "head_width", "embed"),
  "expert": ("layers", "expert", "embed", "mlp"),
  "narrow": ("embed", "mlp"),
  "table": ("layers", "buckets", "heads"),
  "scale": ("layers", "embed"),
}
# Leaf -> how many axes are stacked, and the matrix or vector that is left.
MATRICES = {
  "embedding": (0, (9, 6)),
  "query": (1, (6, 8)),
  "out": (1, (8, 6)),
  "expert": (2, (6, 5)),
  "narrow": (0, (6, 3)),
  "table": (1, (20,)),
  "scale": (1, (6,)),
}


def _adafactor_of_matrix(param, grads, learning_rate):
  """The paper's algorithm 4 or 5 over steps, in float64."""
  R = C = V = 0
  for step, g in enumerate(grads):
    d = 1 - (step + 1) ** -0.8
    g2 = g**2 + 1e-30
    if param.ndim == 2 and min(param.shape) >= 4:
      R, C = d * R + (1 - d) * g2.mean(1), d * C + (1 - d) * g2.mean(0)
      u = g / np.sqrt(np.outer(R, C) / R.mean())
    else:
      V = d * V + (1 - d) * g2
      u = g / np.sqrt(V)
    u = u / max(1, np.sqrt((u**2).mean()))
    scale = max(1e-3, np.sqrt((param**2).mean()))
    param = param - learning_rate(step) * scale * u
  return param


def test_adafactor_follows_the_paper_for_every_matrix_of_stacked_layers():
  generator = np.random.default_rng(0)
  shapes = {
    "embedding": (9, 6),
    "query": (2, 6, 2, 4),
    "out": (2, 2, 4, 6),
    "expert": (2, 3, 6, 5),
    "narrow": (6, 3),
    "table": (2, 5, 4),
    "scale": (2, 6),
  }
  # Layers of different sizes, one of them below the least scale.
  sizes = np.array([1e-5, 1.0, 30.0, 1e-4])
  params = {
    name: generator.normal(size=shape)
    * sizes[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    if AXES[name][0] == "layers"
    else generator.normal(size=shape)
    for name, shape in shapes.items()
  }
  # From the second step on larger gradients, so that updates are clipped.
  grads = [
    {
      name: generator.normal(size=shape) * 10.0**step
      for name, shape in shapes.items()
    }
    for step in range(4)
  ]
  optimizer = optimizers.adafactor(**ADAFACTOR, logical_axes=AXES)
  found = jax.tree.map(jnp.float32, params)
  state = optimizer.init(found)
  for of_step in grads:
    updates, state = optimizer.update(
      jax.tree.map(jnp.float32, of_step), state, found
    )
    found = optax.apply_updates(found, updates)
  for name, (depth, one) in MATRICES.items():
    stack = shapes[name][:depth]
    want = np.reshape(
      [
        _adafactor_of_matrix(
          params[name][place].reshape(one),
          [of_step[name][place].reshape(one) for of_step in grads],
          ADAFACTOR["learning_rate"],
        )
        for place in np.ndindex(*stack)
      ],
      shapes[name],
    )
    np.testing.assert_allclose(found[name], want, rtol=2e-5, atol=1e-7)


def test_adafactor_out_of_range_and_axes_of_another_model_are_errors():
  with pytest.raises(ValueError, match="must be above 0"):
    optimizers.adafactor(
      **{**ADAFACTOR, "decay_exponent": 0}, logical_axes=AXES
    )
  with pytest.raises(ValueError, match="1 or more"):
    optimizers.adafactor(
      **{**ADAFACTOR, "min_dim_size_to_factor": 0}, logical_axes=AXES
    )
  optimizer = optimizers.adafactor(
    **ADAFACTOR, logical_axes={"a": ("embed", "mlp")}
  )
  with pytest.raises(ValueError, match="logical axes"):
    optimizer.init({"a": jnp.ones((2, 6, 3))})
