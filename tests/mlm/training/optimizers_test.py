import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm.training import optimizers, schedules

SETTINGS = dict(
  beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, max_grad_norm=1.0
)


def test_adamw_follows_the_paper_over_steps():
  """Five steps against the algorithm written out in float64 numpy."""
  rate = schedules.constant_with_warmup(peak=1e-2, warmup_steps=3)
  optimizer = optimizers.adamw(learning_rate=rate, **SETTINGS)(None)
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


MUON = dict(
  learning_rate=lambda step: 0.5,
  beta=0.9,
  update_rms=0.2,
  weight_decay=0.1,
  beta1=0.9,
  beta2=0.95,
  epsilon=1e-8,
  max_grad_norm=1e6,
)
MUON_AXES = {
  "embedding": ("vocab", "embed"),
  "query": ("layers", "embed", "heads", "head_width"),
  "out": ("layers", "heads", "head_width", "embed"),
  "expert": ("layers", "expert", "mlp", "embed"),
  "scale": ("layers", "embed"),
}


def _orthogonalized(matrix):
  """The quintic of Newton and Schulz on singular values, float64."""
  u, s, v = np.linalg.svd(matrix, full_matrices=False)
  s = s / np.linalg.norm(s)
  for _ in range(5):
    s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
  return (u * s) @ v


def test_muon_orthogonalizes_every_matrix_and_leaves_the_rest_to_adam():
  generator = np.random.default_rng(3)
  shapes = {
    "embedding": (9, 6),
    "query": (2, 6, 2, 4),
    "out": (2, 2, 4, 6),
    "expert": (2, 3, 5, 6),
    "scale": (2, 6),
  }
  sides = {"query": (6, 8), "out": (8, 6), "expert": (5, 6)}

  def draw():
    return {k: generator.normal(size=s) for k, s in shapes.items()}

  params, gradients = draw(), [draw(), draw()]
  optimizer = optimizers.muon(**MUON)(MUON_AXES)
  adam = optimizers.adamw(learning_rate=MUON["learning_rate"], **SETTINGS)(None)
  found = jax.tree.map(jnp.float32, params)
  by_adam = {k: found[k] for k in ("embedding", "scale")}
  state, adam_state = optimizer.init(found), adam.init(by_adam)
  momentum = {k: 0.0 for k in sides}
  for step, grads in enumerate(gradients):
    small = jax.tree.map(lambda g: jnp.float32(g) * 1e-3, grads)
    updates, state = optimizer.update(small, state, found)
    found = optax.apply_updates(found, updates)
    updates, adam_state = adam.update(
      {k: small[k] for k in by_adam}, adam_state, by_adam
    )
    by_adam = optax.apply_updates(by_adam, updates)
    for name, side in sides.items():
      g = grads[name].reshape(-1, *side)
      momentum[name] = 0.9 * momentum[name] + 0.1 * g
      # Nesterov's look ahead; the scale of what is orthogonalised is free.
      ahead = 0.9 * momentum[name] / (1 - 0.9 ** (step + 2))
      ahead = ahead + 0.1 * g / (1 - 0.9 ** (step + 1))
      moved = np.array([_orthogonalized(matrix) for matrix in ahead])
      moved = 0.2 * math.sqrt(max(side)) * moved.reshape(shapes[name])
      params[name] = params[name] - 0.5 * (moved + 0.1 * params[name])
  for name in sides:
    np.testing.assert_allclose(found[name], params[name], rtol=1e-4, atol=1e-5)
  for name in by_adam:
    np.testing.assert_allclose(found[name], by_adam[name], rtol=1e-6)


def test_muon_out_of_range_is_an_error():
  with pytest.raises(ValueError, match="update_rms 0"):
    optimizers.muon(**{**MUON, "update_rms": 0})
  with pytest.raises(ValueError, match="beta 1"):
    optimizers.muon(**{**MUON, "beta": 1})


def _norms_of(values):
  """Which steps of one param with such gradients are skipped; the params."""

  def plain(axes):
    return optimizers.Optimizer(*optax.sgd(1.0, momentum=0.5), lambda step: 1.0)

  optimizer = optimizers.skipping_spikes(
    optimizer=plain, window=8, num_deviations=3.0
  )(None)
  params = {"x": jnp.zeros(1)}
  state, skipped, path = optimizer.init(params), [], []
  for value in values:
    updates, state = optimizer.update({"x": jnp.ones(1) * value}, state, params)
    params = optax.apply_updates(params, updates)
    skipped.append(float(optimizer.metrics(state)["skipped"][0]))
    path.append(float(params["x"][0]))
  return skipped, path


def test_a_spike_moves_nothing_and_the_rest_is_as_if_it_had_not_been():
  usual = [1.0, 1.2, 0.9, 1.1, 1.0, 0.8]
  skipped, path = _norms_of([*usual, 9.0, 1.0])
  assert skipped == [0] * 6 + [1, 0]
  assert path[6] == path[5]
  assert path[7] == _norms_of([*usual, 1.0])[1][6]


def test_early_steps_and_a_lasting_new_level_are_not_skipped_for_ever():
  assert _norms_of([1.0, 1.1, 50.0])[0] == [0, 0, 0]
  skipped = _norms_of([1.0, 1.1] * 4 + [9.0] * 8)[0]
  assert skipped[8] == 1
  assert skipped[-4:] == [0] * 4


def test_what_is_not_finite_is_not_hidden():
  skipped, path = _norms_of([1.0] * 6 + [float("nan")])
  assert skipped == [0] * 7
  assert math.isnan(path[-1])


@pytest.mark.parametrize("window, deviations", [(3, 6.0), (128, 0.0)])
def test_limits_of_spikes_out_of_range_are_errors(window, deviations):
  with pytest.raises(ValueError, match="must be"):
    optimizers.skipping_spikes(
      optimizer=None, window=window, num_deviations=deviations
    )
