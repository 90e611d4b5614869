import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm.training import adafactor

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
  optimizer = adafactor.adafactor(**ADAFACTOR)(AXES)
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
    adafactor.adafactor(**{**ADAFACTOR, "decay_exponent": 0})
  with pytest.raises(ValueError, match="1 or more"):
    adafactor.adafactor(**{**ADAFACTOR, "min_dim_size_to_factor": 0})
  optimizer = adafactor.adafactor(**ADAFACTOR)({"a": ("embed", "mlp")})
  with pytest.raises(ValueError, match="logical axes"):
    optimizer.init({"a": jnp.ones((2, 6, 3))})
