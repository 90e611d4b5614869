"""Mixtures of experts: a router sends each token to a few of many MLPs.

Letters: B rows, T tokens, M = B T, D model width, F width of an expert,
E experts, C capacity of an expert, A experts of a token.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels.grouped_matmul import api as grouped_matmul
from mlm.models import layers
from mlm.sharding import rules


@dataclasses.dataclass(frozen=True)
class MoEConfig:
  """Experts, how tokens reach them, and what keeps them equally busy.

  Attributes:
    num_experts: E.
    num_experts_per_token: A, at most E.
    renormalize: whether the router's probabilities of a token's experts are
      divided by their sum (Mixtral); if not, they weigh as they are.
    capacity_factor: None: no token is ever dropped. Else an expert takes the
      first ceil(capacity_factor * A * T / E) tokens of each row that choose it;
      for the rest it adds nothing, so they go on by the residual alone.
    load_balancing_weight: of the load-balancing loss in the training loss; 0.01
      in Switch, 0.001 in Qwen3.
    router_z_weight: of the router's z-loss; 0.001 in ST-MoE, 0 in Mixtral.
  """

  num_experts: int
  num_experts_per_token: int
  renormalize: bool
  capacity_factor: float | None
  load_balancing_weight: float
  router_z_weight: float

  def __post_init__(self):
    if not 1 <= self.num_experts_per_token <= self.num_experts:
      raise ValueError(
        f"num_experts_per_token {self.num_experts_per_token} must be from 1 to "
        f"num_experts {self.num_experts}"
      )
    if self.capacity_factor is not None and not self.capacity_factor > 0:
      raise ValueError(
        f"capacity_factor {self.capacity_factor} must be above 0; 1.0 is just "
        "enough for equal loads, None drops no token"
      )
    for name in ("load_balancing_weight", "router_z_weight"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")


class MoE(nn.Module):
  """sum over a token's experts e of weight_e * MLP_e(x).

  The router is a matrix and a softmax over all experts, in float32; the largest
  A probabilities choose and weigh.

  Attributes:
    config: of the mixture.
    kind: of each expert, one of `layers.MLPS`.
    d_ff: F.
    backend: of the grouped matmul kernel, where no token is dropped.

  Source: Shazeer et al. 2017; Fedus et al. 2021 (Switch) for the capacity,
    which here is counted row by row and in the order of tokens, so that no
    token depends on later ones or on other rows; Jiang et al. 2024 (Mixtral).
  """

  config: MoEConfig
  kind: str
  d_ff: int
  backend: str

  @nn.compact
  def __call__(self, x: jax.Array, valid: jax.Array):
    """Routes and computes.

    Args:
      x: [B, T, D].
      valid: bool [B, T]; other tokens get 0, no expert's time and no say in the
        statistics.

    Returns:
      ([B, T, D], statistics for `auxiliary`, each float32: "probability" and
      "assignments" of shape [E], "z_loss" and "dropped" scalars).
    """
    config, D, F = self.config, x.shape[-1], self.d_ff
    E, A = config.num_experts, config.num_experts_per_token
    router = layers.parameter(
      self,
      "router",
      layers.kernel_init((0,), (1,)),
      ("embed", "expert"),
      (D, E),
    )
    logits = jnp.einsum(
      "BTD,DE->BTE", x.astype(jnp.float32), router, precision="highest"
    )
    probabilities = jax.nn.softmax(logits, axis=-1)
    weights, experts = jax.lax.top_k(probabilities, A)
    if config.renormalize:
      weights /= weights.sum(axis=-1, keepdims=True)
    experts = jnp.where(valid[..., None], experts, E)

    def kernel(name, axes, shape):
      init = layers.kernel_init((1,), (2,), batch_axes=(0,))
      axes, shape = ("expert", *axes), (E, *shape)
      return layers.parameter(self, name, init, axes, shape).astype(x.dtype)

    activation, is_gated = layers.MLPS[self.kind]
    kernels = {
      name: kernel(name, ("embed", "mlp"), (D, F))
      for name in (("up", "gate") if is_gated else ("up",))
    }
    kernels["down"] = kernel("down", ("mlp", "embed"), (F, D))
    if config.capacity_factor is None:
      is_kept = experts < E
      mixed = dropless(
        x, experts, weights, kernels, activation, backend=self.backend
      )
    else:
      T = x.shape[1]
      capacity = min(T, math.ceil(config.capacity_factor * A * T / E))
      slots = _slots(experts, E, capacity)
      is_kept = slots < E * capacity
      mixed = _in_slots(x, slots, weights, kernels, activation, capacity)
    return mixed, _statistics(logits, probabilities, experts, is_kept, valid)


def _statistics(logits, probabilities, experts, is_kept, valid):
  E = logits.shape[-1]
  num_tokens = jnp.maximum(valid.sum(), 1)

  def mean(x):
    return jnp.einsum("BT...,BT->...", x, valid.astype(x.dtype)) / num_tokens

  return {
    "probability": mean(probabilities),
    "assignments": jnp.float32(jnp.bincount(experts.reshape(-1), length=E)),
    "z_loss": mean(jax.nn.logsumexp(logits, axis=-1) ** 2),
    "dropped": jnp.float32(((experts < E) & ~is_kept).sum()),
  }


def auxiliary(config: MoEConfig, statistics: dict) -> dict:
  """The routers' losses and metrics of a stack of layers.

  The load-balancing loss of a layer is E sum_e f_e P_e, where f_e is the share
  of real tokens that chose expert e (all shares add up to A) and P_e its mean
  probability: A for equal loads, 1 for top-1. The z-loss is the mean of
  logsumexp(router logits)^2. Both are taken for each layer, over the whole
  batch, and averaged over layers.

  Args:
    config: of the mixture.
    statistics: of `MoE`, stacked over L layers.

  Returns:
    {"auxiliary_loss": scalar, the weighted sum of the losses; "auxiliary":
    {name: (numerator, denominator)}, the losses, the load of each expert (1 on
    average), the largest of a layer, and the share of assignments dropped}.

  Source: Fedus et al. 2021 (Switch), equations 4 to 6; Zoph et al. 2022
    (ST-MoE), equation 5. Transformers pools the layers before the product.
  """
  assignments = statistics["assignments"]
  E, A = config.num_experts, config.num_experts_per_token
  num_assigned = jnp.maximum(assignments.sum(axis=-1, keepdims=True), 1)
  loads = E * assignments / num_assigned
  balance = (A * loads * statistics["probability"]).sum(axis=-1).mean()
  z_loss = statistics["z_loss"].mean()
  one = jnp.float32(1)
  metrics = {
    "load_balancing_loss": (balance, one),
    "router_z_loss": (z_loss, one),
    "largest_load": (loads.max(axis=-1).mean(), one),
    "load_by_expert": (loads.mean(axis=0), one),
    "dropped": (statistics["dropped"].sum(), num_assigned.sum()),
  }
  loss = config.load_balancing_weight * balance
  return {
    "auxiliary_loss": loss + config.router_z_weight * z_loss,
    "auxiliary": metrics,
  }


def _mlp(x, kernels, activation, product):
  up = product(x, kernels["up"])
  if "gate" in kernels:
    hidden = activation(product(x, kernels["gate"])) * up
  else:
    hidden = activation(up)
  return product(hidden, kernels["down"])


def _mixed(outputs, weights):
  """Sum over A of [..., A, D] by weights [..., A]."""
  return jnp.einsum("...AD,...A->...D", outputs, weights.astype(outputs.dtype))


def dropless(
  x: jax.Array,
  experts: jax.Array,
  weights: jax.Array,
  kernels: Mapping[str, jax.Array],
  activation: Callable,
  *,
  backend: str,
) -> jax.Array:
  """Weighted sum of the MLPs that each token chose, none of them dropped.

  Tokens are sorted by expert; then each expert multiplies its own. On a mesh
  every device sorts its own rows, and the width F is split over tensor. Where
  the mesh axis expert splits the experts, the devices along it gather each
  other's rows, each computes what its own experts add to them, and the sums go
  back to where the rows are: as much traffic as sending each token to its A
  experts where A is the number of these devices, and any imbalance fits.

  Args:
    x: [B, T, D].
    experts: int32 [B, T, A]; E stands for none.
    weights: float [B, T, A].
    kernels: {"up", "down", with a gate also "gate"} of [E, D, F] and [E, F, D],
      dtype of x.
    activation: of up, or of gate.
    backend: of the grouped matmul kernel.

  Returns:
    [B, T, D]; 0 where there is no expert.
  """
  body = functools.partial(_sorted, activation=activation, backend=backend)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return body(x, experts, weights, kernels)
  rows = rules.activation_spec(mesh, ("batch", "length", "embed"), x.shape)
  wide = rules.activation_spec(
    mesh, ("expert", "embed", "mlp"), kernels["up"].shape
  )
  narrow = jax.P(wide[0], wide[2], wide[1])
  specs = {name: narrow if name == "down" else wide for name in kernels}
  expert_axis, _, mlp_axis = wide
  are_rows_split = rows[0] is not None

  def of_device(x, experts, weights, kernels):
    if expert_axis is not None:
      if are_rows_split:
        x, experts, weights = (
          jax.lax.all_gather(a, expert_axis, tiled=True)
          for a in (x, experts, weights)
        )
      E = kernels["up"].shape[0]
      experts = experts - jax.lax.axis_index(expert_axis) * E
      experts = jnp.where((experts >= 0) & (experts < E), experts, E)
    mixed = body(x, experts, weights, kernels)
    if mlp_axis is not None:
      mixed = jax.lax.psum(mixed, mlp_axis)
    if expert_axis is None:
      return mixed
    if are_rows_split:
      return jax.lax.psum_scatter(mixed, expert_axis, tiled=True)
    return jax.lax.psum(mixed, expert_axis)

  return jax.shard_map(
    of_device,
    in_specs=(rows, rows, rows, specs),
    out_specs=rows,
    check_vma=False,  # a pallas_call does not say over what its result varies
  )(x, experts, weights, kernels)


def _sorted(x, experts, weights, kernels, activation, backend):
  """`dropless` on one device, of its experts and its part of F."""
  A, E = experts.shape[-1], kernels["up"].shape[0]
  flat = experts.reshape(-1)
  order = jnp.argsort(flat)
  sizes = jnp.bincount(flat, length=E).astype(jnp.int32)
  outputs = _mlp(
    x.reshape(-1, x.shape[-1])[order // A],
    kernels,
    activation,
    lambda rows, matrices: grouped_matmul.grouped_matmul(
      rows, matrices, sizes, backend=backend
    ),
  )
  outputs = outputs[jnp.argsort(order)].reshape(*experts.shape, -1)
  return _mixed(outputs, weights)


def _slots(experts: jax.Array, num_experts: int, capacity: int) -> jax.Array:
  """Where each choice stands among E C slots; E C for those without a place.

  Int32 [B, T, A]. An expert's slots go to its tokens in their order.
  """
  B, T, A = experts.shape
  chosen = jax.nn.one_hot(
    experts.reshape(B, T * A), num_experts, dtype=jnp.int32
  )
  earlier = jnp.cumsum(chosen, axis=1) - chosen
  place = (earlier * chosen).sum(axis=-1).reshape(B, T, A)
  has_place = (experts < num_experts) & (place < capacity)
  return jnp.where(
    has_place, experts * capacity + place, num_experts * capacity
  )


def _in_slots(x, slots, weights, kernels, activation, capacity):
  """As `dropless`, of the choices that have a slot; 0 for the others."""
  B, T, D = x.shape
  A, E = slots.shape[-1], kernels["up"].shape[0]

  def gather(x_TD, slots):
    tokens = jnp.full(E * capacity, T)
    tokens = tokens.at[slots.reshape(-1)].set(
      jnp.arange(T * A) // A, mode="drop"
    )
    return x_TD.at[tokens].get(mode="fill", fill_value=0)

  rows = jax.vmap(gather)(x, slots).reshape(B, E, capacity, D)
  rows = rules.constrain(
    rows, ("batch_of_experts", "expert", "capacity", "embed")
  )
  outputs = _mlp(
    rows,
    kernels,
    activation,
    lambda rows, matrices: jnp.einsum("BECI,EIO->BECO", rows, matrices),
  ).reshape(B, E * capacity, D)
  outputs = rules.constrain(outputs, ("batch", "length", "embed"))
  outputs = jax.vmap(
    lambda outputs, slots: outputs.at[slots].get(mode="fill", fill_value=0)
  )(outputs, slots)
  return _mixed(outputs, weights)
