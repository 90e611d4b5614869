"""Layers of the decoder: RMS norm, rotary positions, attention, gated MLP.

Letters: B rows, T query length, S key length, D model width, N query heads,
K key/value heads, G = N / K, H head width, F feed-forward width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlm.sharding import rules

# Finite, so that a row that may attend to nothing (padding) gives no NaN.
_MASKED = -1e30


def _kernel_init(fan_in_axes: tuple[int, ...], out_axes: tuple[int, ...]):
  return nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", fan_in_axes, out_axes
  )


def parameter(
  module: nn.Module, name: str, init, axes: tuple[str, ...], shape: tuple
) -> jax.Array:
  """A float32 parameter with its logical axes."""
  return module.param(
    name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )


class RMSNorm(nn.Module):
  """x / rms(x) * scale, with statistics in float32 (Zhang & Sennrich 2019)."""

  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = parameter(
      self, "scale", nn.initializers.ones, ("embed",), (x.shape[-1],)
    )
    x_float = x.astype(jnp.float32)
    mean_square = jnp.mean(x_float**2, axis=-1, keepdims=True)
    normed = x_float * jax.lax.rsqrt(mean_square + self.epsilon)
    return (normed * scale).astype(x.dtype)


def rotate(x: jax.Array, positions: jax.Array, *, theta: float) -> jax.Array:
  """Rotary position embedding; the two halves of H rotate against each other.

  Args:
    x: [B, T, heads, H], H even.
    positions: int32 [B, T].
    theta: base of the wavelengths.

  Source: Su et al. 2021 (RoFormer), section 3.4; half layout as in the
  published Hugging Face weights of Llama.
  """
  half = x.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions[..., None, None].astype(jnp.float32) * frequencies
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attend(
  query_BTNH: jax.Array,
  key_BSKH: jax.Array,
  value_BSKH: jax.Array,
  mask_BTS: jax.Array,
) -> jax.Array:
  """Grouped-query attention, softmax in float32; returns [B, T, N, H]."""
  B, T, N, H = query_BTNH.shape
  K = key_BSKH.shape[2]
  # Head-major before the products: a third of the step's time on a CPU.
  query = (query_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
  query = query.transpose(0, 2, 3, 1, 4)
  key, value = (x.transpose(0, 2, 1, 3) for x in (key_BSKH, value_BSKH))
  logits = jnp.einsum(
    "BKGTH,BKSH->BKGTS", query, key, preferred_element_type=jnp.float32
  )
  logits = jnp.where(mask_BTS[:, None, None], logits, _MASKED)
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  out = jnp.einsum("BKGTS,BKSH->BKGTH", weights, value)
  return out.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


class Attention(nn.Module):
  """Causal self-attention, with or without a cache of earlier keys."""

  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float

  @nn.compact
  def __call__(self, x, cache, positions, mask, index):
    """Attends.

    Args:
      x: [B, T, D].
      cache: None, or {"keys", "values"} of [B, S, K, H] to write into.
      positions: int32 [B, T].
      mask: bool [B, T, S]; S = T without a cache.
      index: first slot to write, int32 scalar; unused without a cache.

    Returns:
      ([B, T, D], cache).
    """
    D, N, K, H = x.shape[-1], self.num_heads, self.num_kv_heads, self.head_dim

    def project(name, heads, axis):
      kernel = parameter(
        self,
        name,
        _kernel_init((0,), (1, 2)),
        ("embed", axis, "head_width"),
        (D, heads, H),
      )
      projected = jnp.einsum("BTD,DNH->BTNH", x, kernel.astype(x.dtype))
      return rules.constrain(projected, ("batch", "length", axis, "head_width"))

    query = rotate(
      project("query", N, "heads"), positions, theta=self.rope_theta
    )
    key = rotate(
      project("key", K, "kv_heads"), positions, theta=self.rope_theta
    )
    value = project("value", K, "kv_heads")
    if cache is not None:
      key = jax.lax.dynamic_update_slice_in_dim(
        cache["keys"], key, index, axis=1
      )
      value = jax.lax.dynamic_update_slice_in_dim(
        cache["values"], value, index, axis=1
      )
      cache = {"keys": key, "values": value}
    out = attend(query, key, value, mask)
    kernel = parameter(
      self,
      "out",
      _kernel_init((0, 1), (2,)),
      ("heads", "head_width", "embed"),
      (N, H, D),
    )
    return jnp.einsum("BTNH,NHD->BTD", out, kernel.astype(x.dtype)), cache


class GatedMLP(nn.Module):
  """(silu(x gate) * (x up)) down, the SwiGLU of Shazeer 2020."""

  d_ff: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    D, F = x.shape[-1], self.d_ff

    def project(x, name, axes, shape):
      kernel = parameter(self, name, _kernel_init((0,), (1,)), axes, shape)
      return x @ kernel.astype(x.dtype)

    # One long matrix, not a batch of short ones: XLA's CPU gradients halve.
    rows = x.reshape(-1, D)
    gate = project(rows, "gate", ("embed", "mlp"), (D, F))
    up = project(rows, "up", ("embed", "mlp"), (D, F))
    gated = rules.constrain(nn.silu(gate) * up, ("batch", "mlp"))
    down = project(gated, "down", ("mlp", "embed"), (F, D))
    return down.reshape(x.shape)
