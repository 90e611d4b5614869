"""Layers of all models: norms, attention, MLPs, and the scan over blocks.

Letters: B rows, T query length, S key length, D model width, N query heads,
K key/value heads, G = N / K, H head width, F feed-forward width.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlm.sharding import rules

# Finite, so that a row that may attend to nothing (padding) gives no NaN.
_MASKED = -1e30

NORMS = ("rms", "layer")
# Name -> (activation, whether a second projection gates it).
MLPS = {
  "swiglu": (nn.silu, True),
  "geglu": (nn.gelu, True),  # both the tanh approximation
  "gelu": (nn.gelu, False),
}

# What the backward pass finds saved: everything; the products of weights and
# activations, but not attention's squares; only the input of each block.
_REMAT = {
  "none": None,
  "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}
REMAT = tuple(_REMAT)


def stack(
  block: type[nn.Module], *, num_layers: int, remat: str, num_shared: int
) -> type[nn.Module]:
  """A block applied num_layers times by scan, params stacked on axis 0.

  Args:
    block: module of (x, cache of its layer, *shared) -> (x, what is stacked).
    num_layers: L.
    remat: one of `REMAT`.
    num_shared: how many further arguments all layers share.
  """
  if remat != "none":
    block = nn.remat(block, prevent_cse=False, policy=_REMAT[remat])
  return nn.scan(
    block,
    variable_axes={"params": 0, "adapters": 0},
    split_rngs={"params": True},
    in_axes=(0, *[nn.broadcast] * num_shared),
    length=num_layers,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def kernel_init(
  in_axes: tuple[int, ...],
  out_axes: tuple[int, ...],
  *,
  scale: float = 1.0,
  distribution: str = "truncated_normal",
  batch_axes: tuple[int, ...] = (),
):
  """Initial values of variance scale / fan in."""
  return nn.initializers.variance_scaling(
    scale, "fan_in", distribution, in_axes, out_axes, batch_axes
  )


def parameter(
  module: nn.Module, name: str, init, axes: tuple[str, ...], shape: tuple
) -> jax.Array:
  """A float32 parameter with its logical axes.

  If the collection "adapters" has a low-rank pair of its name, their product is
  added: here, so that no layer knows of it, and within the scan and what is
  recomputed, so that the sum exists for one layer at a time.
  """
  value = module.param(
    name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )
  if module.has_variable("adapters", name):
    value = value + low_rank(module.get_variable("adapters", name), axes)
  return value


def low_rank(pair: dict, axes: tuple[str, ...]) -> jax.Array:
  """The product A B of a matrix's shape, in float32.

  Args:
    pair: {"a": [..., inputs, R], "b": [..., R, outputs]}.
    axes: logical axes of the matrix, or of a stack of them.
  """
  product = functools.partial(jnp.tensordot, axes=1, precision="highest")
  # In a batch of one, so that remat "minimal", which saves products that have
  # no batch, recomputes this one, which is as large as the weights.
  for _ in range(rules.num_stacked(axes) + 1):
    product = jax.vmap(product)
  return product(pair["a"][None], pair["b"][None])[0]


def logical_axes(boxed_init: Callable[[jax.Array], Any]) -> Any:
  """Tree like params of tuples of logical axis names.

  Args:
    boxed_init: key -> params as `parameter` makes them, with their axes.
  """
  specs = nn.get_partition_spec(jax.eval_shape(boxed_init, jax.random.key(0)))
  return jax.tree.map(
    tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
  )


class Norm(nn.Module):
  """x / rms(x) * scale; "layer" first subtracts the mean. Float32 statistics.

  Source: Zhang & Sennrich 2019; Ba et al. 2016.
  """

  kind: str
  epsilon: float
  use_bias: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale = parameter(self, "scale", nn.initializers.ones, ("embed",), shape)
    x_float = x.astype(jnp.float32)
    if self.kind == "layer":
      x_float -= jnp.mean(x_float, axis=-1, keepdims=True)
    mean_square = jnp.mean(x_float**2, axis=-1, keepdims=True)
    normed = x_float * jax.lax.rsqrt(mean_square + self.epsilon) * scale
    if self.use_bias:
      normed += parameter(
        self, "bias", nn.initializers.zeros, ("embed",), shape
      )
    return normed.astype(x.dtype)


def _products(query_BTNH: jax.Array, key_bSKH: jax.Array) -> jax.Array:
  """Float32 query key, [B, K, G, T, S]; B / b neighbouring rows share keys."""
  B, T, N, H = query_BTNH.shape
  b, S, K, _ = key_bSKH.shape
  # Rows that share keys are further queries: one product, keys read once.
  # Head-major before the products: a third of the step's time on a CPU.
  query = query_BTNH.reshape(b, -1, K, N // K, H).transpose(0, 2, 3, 1, 4)
  products = jnp.einsum(
    "BKGTH,BKSH->BKGTS",
    query,
    key_bSKH.transpose(0, 2, 1, 3),
    preferred_element_type=jnp.float32,
  )
  products = products.reshape(b, K, N // K, B // b, T, S)
  return products.transpose(0, 3, 1, 2, 4, 5).reshape(B, K, N // K, T, S)


def _weighted(weights_BKGTS: jax.Array, value_bSKH: jax.Array) -> jax.Array:
  """Sums of values, [B, T, N, H]; the counterpart of `_products`."""
  B, K, G, T, S = weights_BKGTS.shape
  b, _, _, H = value_bSKH.shape
  weights = weights_BKGTS.reshape(b, B // b, K, G, T, S)
  weights = weights.transpose(0, 2, 3, 1, 4, 5).reshape(b, K, G, -1, S)
  value = value_bSKH.transpose(0, 2, 1, 3)
  out = jnp.einsum("BKGTS,BKSH->BKGTH", weights, value)
  return out.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def attend(
  query_BTNH: jax.Array,
  keys: Sequence[jax.Array],
  values: Sequence[jax.Array],
  mask_BTS: jax.Array,
  bias_NTS: jax.Array | None,
) -> jax.Array:
  """softmax(query key + bias) value, softmax in float32; [B, T, N, H].

  Queries come scaled; each key/value head serves N / K of them. Keys and values
  come in parts whose slots follow one another, each [b, s, K, H], where b
  divides B: B / b neighbouring rows share the part.
  """
  K = keys[0].shape[2]
  logits = [_products(query_BTNH, key) for key in keys]
  logits = logits[0] if len(keys) == 1 else jnp.concatenate(logits, axis=-1)
  if bias_NTS is not None:
    logits += bias_NTS.reshape(K, -1, *bias_NTS.shape[1:])
  logits = jnp.where(mask_BTS[:, None, None], logits, _MASKED)
  weights = jax.nn.softmax(logits, axis=-1).astype(values[0].dtype)
  ends = list(itertools.accumulate(value.shape[1] for value in values))
  parts = jnp.split(weights, ends[:-1], axis=-1)
  return functools.reduce(operator.add, map(_weighted, parts, values))


class Attention(nn.Module):
  """Attention to the tokens themselves, or to those of another sequence.

  Attributes:
    num_heads: N.
    num_kv_heads: K, divides N.
    head_dim: H.
    is_scaled: whether logits are divided by sqrt(H); if not, the initial values
      of the query kernel are, as in T5.
    rotate: (x [B, T, heads, H], positions) -> x, or None.
    use_biases: in all four projections.
  """

  num_heads: int
  num_kv_heads: int
  head_dim: int
  is_scaled: bool
  rotate: Callable | None
  use_biases: bool

  @nn.compact
  def __call__(
    self, x, source, cache, positions, mask, bias, index, fused=None
  ):
    """Attends.

    Args:
      x: [B, T, D].
      source: [B, S, D] that keys and values are made of; None to take those of
        the cache.
      cache: None, or {"keys", "values"} of [B, S, K, H]; those of the source
        are written into it. With {"prompt_keys", "prompt_values"} of
        [b, P, K, H], it takes the slots from P on, see `caches.fork`.
      positions: int32 [B, T] for `rotate`.
      mask: bool [B, T, S], or None where fused.
      bias: float32 [N, T, S] added to the logits, or None.
      index: first slot of the cache to write, int32 scalar.
      fused: without a cache, what attends in place of `attend`: (query
        [B, T, N, H], key, value [B, S, K, H]) -> ([B, T, N, H], what it keeps
        of keys and values, or None), which scales, masks and adds biases by
        itself.

    Returns:
      ([B, T, D], {"keys", "values"} of the cache, or what fused keeps).
    """
    D, N, K, H = x.shape[-1], self.num_heads, self.num_kv_heads, self.head_dim
    # T5 draws attention's kernels from a whole normal distribution.
    distribution = "truncated_normal" if self.is_scaled else "normal"

    def biased(projected, name, axes, shape):
      if not self.use_biases:
        return projected
      bias = parameter(self, name, nn.initializers.zeros, axes, shape)
      return projected + bias.astype(x.dtype)

    def project(inputs, name, heads, axis, scale=1.0):
      kernel = parameter(
        self,
        name,
        kernel_init((0,), (1, 2), scale=scale, distribution=distribution),
        ("embed", axis, "head_width"),
        (D, heads, H),
      )
      projected = biased(
        jnp.einsum("BTD,DNH->BTNH", inputs, kernel.astype(x.dtype)),
        f"{name}_bias",
        (axis, "head_width"),
        (heads, H),
      )
      return rules.constrain(projected, ("batch", "length", axis, "head_width"))

    query_scale = 1.0 if self.is_scaled else 1 / H
    query = project(x, "query", N, "heads", scale=query_scale)
    if self.rotate is not None:
      query = self.rotate(query, positions)
    prompt = None if cache is None else cache.get("prompt_keys")
    if source is None:
      key, value = cache["keys"], cache["values"]
    else:
      key = project(source, "key", K, "kv_heads")
      value = project(source, "value", K, "kv_heads")
      if self.rotate is not None:
        key = self.rotate(key, positions)
      if cache is None:
        key, value = (
          rules.constrain(x, ("batch", "key_length", "kv_heads", "head_width"))
          for x in (key, value)
        )
      else:
        if prompt is not None:
          index = index - prompt.shape[1]
        key, value = (
          jax.lax.dynamic_update_slice_in_dim(cache[name], new, index, axis=1)
          for name, new in (("keys", key), ("values", value))
        )
    keys, values = (key,), (value,)
    if prompt is not None:
      keys, values = (prompt, key), (cache["prompt_values"], value)
    kept = None if cache is None else {"keys": key, "values": value}
    if fused is not None:
      out, kept = fused(query, key, value)
    else:
      if self.is_scaled:
        query = query * H**-0.5
      out = attend(query, keys, values, mask, bias)
    kernel = parameter(
      self,
      "out",
      kernel_init((0, 1), (2,), distribution=distribution),
      ("heads", "head_width", "embed"),
      (N, H, D),
    )
    out = jnp.einsum("BTNH,NHD->BTD", out, kernel.astype(x.dtype))
    out = biased(out, "out_bias", ("embed",), (D,))
    return out, kept


class MLP(nn.Module):
  """act(x up) down, or with a gate (act(x gate) * (x up)) down.

  Attributes:
    kind: one of `MLPS`.
    d_ff: F.
    use_biases: in all projections.

  Source: Shazeer 2020 for the gated ones.
  """

  kind: str
  d_ff: int
  use_biases: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    D, F = x.shape[-1], self.d_ff
    activation, is_gated = MLPS[self.kind]

    def project(x, name, axes, shape):
      kernel = parameter(self, name, kernel_init((0,), (1,)), axes, shape)
      projected = x @ kernel.astype(x.dtype)
      if not self.use_biases:
        return projected
      bias = parameter(
        self, f"{name}_bias", nn.initializers.zeros, axes[1:], shape[1:]
      )
      return projected + bias.astype(x.dtype)

    # One long matrix, not a batch of short ones: XLA's CPU gradients halve. If
    # devices share a row, no split of that matrix is theirs.
    rows, axes = x.reshape(-1, D), ("batch", "mlp")
    if rules.num_shards("length") > 1:
      rows, axes = x, ("batch", "length", "mlp")
    up = project(rows, "up", ("embed", "mlp"), (D, F))
    if is_gated:
      hidden = activation(project(rows, "gate", ("embed", "mlp"), (D, F))) * up
    else:
      hidden = activation(up)
    hidden = rules.constrain(hidden, axes)
    down = project(hidden, "down", ("mlp", "embed"), (F, D))
    return down.reshape(x.shape)
