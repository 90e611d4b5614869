"""Small trained parts of a frozen decoder: LoRA, language and task adapters.

Adapters are a tree beside the params. Fresh ones change nothing: whatever they
add passes a matrix of zeros.

Letters: B rows, T tokens, D model width, L layers, R width of an adapter.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlm.models import layers, moe
from mlm.sharding import rules


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """W + alpha / rank * A B in place of chosen matrices W.

  Attributes:
    patterns: of paths of params, such as "layers/attention/*"; "*" stands for
      anything.
    rank: R, columns of A and rows of B.
    alpha: see above.

  Source: Hu et al. 2021.
  """

  patterns: tuple[str, ...]
  rank: int
  alpha: float

  def __post_init__(self):
    if self.rank < 1 or not self.alpha > 0 or not self.patterns:
      raise ValueError(
        f"rank {self.rank}, alpha {self.alpha}, patterns {self.patterns}: a "
        "rank of at least 1, an alpha above 0 and a pattern are needed"
      )


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
  """A bottleneck after every MLP for each language, and an invertible adapter.

  Attributes:
    language_ids: those of decoder_language_ids that have adapters; tokens of
      other languages pass unchanged.
    width: R of the bottlenecks.
    invertible_width: R of the two maps of the invertible adapter, which follows
      the embedding and is inverted before the output matrix; None for none.

  Source: Pfeiffer et al. 2020 (MAD-X), sections 3.2 and 3.4.
  """

  language_ids: tuple[int, ...]
  width: int
  invertible_width: int | None

  def __post_init__(self):
    ids = self.language_ids
    if not ids or len(set(ids)) < len(ids) or min(ids) < 0:
      raise ValueError(
        f"language_ids {ids}: give each language once, by its index in the "
        "registry"
      )
    for name in ("width", "invertible_width"):
      width = getattr(self, name)
      if width is not None and width < 1:
        raise ValueError(f"{name} {width} must be at least 1")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Which adapters a decoder has; at least one kind.

  Attributes:
    lora: of matrices, or None.
    language: of languages, or None.
    task_width: R of a bottleneck for the task after that of the language in
      every layer, or None.
  """

  lora: LoraConfig | None
  language: LanguageConfig | None
  task_width: int | None

  def __post_init__(self):
    if self.lora is self.language is self.task_width is None:
      raise ValueError(
        "no adapter: set lora, language or task_width, or build the model "
        "without adapters"
      )
    if self.task_width is not None and self.task_width < 1:
      raise ValueError(f"task_width {self.task_width} must be at least 1")


def config_of(fields: Mapping[str, Any]) -> AdapterConfig:
  """The configuration of what `dataclasses.asdict` gave, or JSON of it."""
  lora, language = fields["lora"], fields["language"]
  if lora is not None:
    lora = LoraConfig(**{**lora, "patterns": tuple(lora["patterns"])})
  if language is not None:
    ids = tuple(language["language_ids"])
    language = LanguageConfig(**{**language, "language_ids": ids})
  return AdapterConfig(lora, language, fields["task_width"])


def joined(first: AdapterConfig | None, second: AdapterConfig) -> AdapterConfig:
  """The kinds of both.

  Raises:
    ValueError: if both have adapters of one kind.
  """
  if first is None:
    return second
  kinds = {}
  for field in dataclasses.fields(AdapterConfig):
    found = [getattr(config, field.name) for config in (first, second)]
    if None not in found:
      raise ValueError(
        f"the model already has adapters of the kind {field.name}, {found[0]}; "
        "train another kind, or start from the model below"
      )
    kinds[field.name] = found[1] if found[0] is None else found[0]
  return AdapterConfig(**kinds)


def united(first: Any, second: Any) -> Any:
  """The tree of two trees of adapters of different kinds."""
  return _nested({**_flat(first), **_flat(second)})


class _Leaf(NamedTuple):
  shape: tuple[int, ...]
  axes: tuple[str, ...]
  stddev: float


def _flat(tree: Any, is_leaf=None) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def _lora_leaves(config: LoraConfig, params: Any, axes: Any):
  shapes, axes = _flat(params), _flat(axes, lambda x: isinstance(x, tuple))
  for pattern in config.patterns:
    if not fnmatch.filter(shapes, pattern):
      raise ValueError(
        f"pattern {pattern!r} chooses no param; there are {', '.join(shapes)}"
      )
  for path, param in shapes.items():
    if not any(fnmatch.fnmatchcase(path, x) for x in config.patterns):
      continue
    shape, names = param.shape, axes[path]
    start = rules.num_stacked(names)
    # Inputs are the width of the model, or all but it.
    split = start + 1 if names[start] == "embed" else len(names) - 1
    if len(names) - start < 2:
      raise ValueError(
        f"{path} is no matrix; choose patterns {config.patterns} that leave it "
        "out"
      )
    num_inputs = math.prod(shape[start:split])
    if names[start] == "vocab":
      num_inputs = 1  # a lookup reads one row
    yield (
      f"{path}/a",
      _Leaf(
        (*shape[:split], config.rank),
        (*names[:split], "adapter"),
        num_inputs**-0.5,
      ),
    )
    yield (
      f"{path}/b",
      _Leaf(
        (*shape[:start], config.rank, *shape[split:]),
        (*names[:start], "adapter", *names[split:]),
        0.0,
      ),
    )


def _bottleneck_leaves(path: str, stacked: dict[str, int], D: int, R: int):
  """Of down [*stacked, D, R] and up [*stacked, R, D]."""
  axes, sizes = tuple(stacked), tuple(stacked.values())
  yield (
    f"{path}/down",
    _Leaf((*sizes, D, R), (*axes, "embed", "adapter"), D**-0.5),
  )
  yield f"{path}/up", _Leaf((*sizes, R, D), (*axes, "adapter", "embed"), 0.0)


def _leaves(config: AdapterConfig, params: Any, axes: Any) -> dict[str, _Leaf]:
  D = params["embedding"].shape[1]
  L = jax.tree.leaves(params["layers"])[0].shape[0]
  leaves = []
  if config.lora is not None:
    leaves += _lora_leaves(config.lora, params, axes)
  if config.language is not None:
    languages = {"expert": len(config.language.language_ids)}
    leaves += _bottleneck_leaves(
      "layers/language", {"layers": L, **languages}, D, config.language.width
    )
    R = config.language.invertible_width
    if R is not None:
      if D % 2:
        raise ValueError(f"d_model {D} must be even for invertible adapters")
      for name in ("first", "second"):
        leaves += _bottleneck_leaves(f"invertible/{name}", languages, D // 2, R)
  if config.task_width is not None:
    leaves += _bottleneck_leaves(
      "layers/task", {"layers": L}, D, config.task_width
    )
  return dict(leaves)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
  nested: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split("/")
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return nested


def init(config: AdapterConfig, params: Any, axes: Any, key: jax.Array) -> Any:
  """Fresh adapters, float32: one matrix of each pair normal, the other zero.

  Args:
    config: of the adapters.
    params: of the decoder; shapes suffice.
    axes: tree like params of tuples of logical axis names.
    key: of the initial values.

  Raises:
    ValueError: if a pattern chooses no param, or one that is no matrix.
  """
  leaves = _leaves(config, params, axes)
  keys = jax.random.split(key, len(leaves))
  return _nested(
    {
      path: leaf.stddev * jax.random.normal(key, leaf.shape)
      if leaf.stddev
      else jnp.zeros(leaf.shape)
      for (path, leaf), key in zip(leaves.items(), keys)
    }
  )


def logical_axes(config: AdapterConfig, params: Any, axes: Any) -> Any:
  """Tree like `init`'s of tuples of logical axis names."""
  leaves = _leaves(config, params, axes)
  return _nested({path: leaf.axes for path, leaf in leaves.items()})


def scaled(config: AdapterConfig, adapters: Any) -> Any:
  """Adapters with alpha / rank inside B, as the layers read them."""
  if config.lora is None:
    return adapters
  scale = config.lora.alpha / config.lora.rank

  def of_leaf(path, leaf):
    return scale * leaf if path[-1].key == "b" else leaf

  return jax.tree_util.tree_map_with_path(of_leaf, adapters)


def merge(config: AdapterConfig, params: Any, adapters: Any, axes: Any) -> Any:
  """Params of a decoder without adapters that computes the same.

  Args:
    config: of the adapters; LoRA alone.
    params: of the decoder.
    adapters: of `init`'s form.
    axes: tree like params of tuples of logical axis names.

  Raises:
    ValueError: if there are bottlenecks, which no matrix can hold.
  """
  if config.language is not None or config.task_width is not None:
    raise ValueError(
      "language and task adapters cannot be merged into the params; only LoRA "
      "can"
    )
  pairs = _flat(scaled(config, adapters))
  names = _flat(axes, lambda x: isinstance(x, tuple))

  def merged(path, param):
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    if f"{path}/a" not in pairs:
      return param
    pair = {name: pairs[f"{path}/{name}"] for name in ("a", "b")}
    return param + layers.low_rank(pair, names[path])

  return jax.tree_util.tree_map_with_path(merged, params)


def numbers(config: AdapterConfig, language_ids: jax.Array) -> jax.Array | None:
  """Which adapter each token takes; the number of languages for none.

  Args:
    config: of the adapters.
    language_ids: int32 [B, T].

  Returns:
    int32 [B, T], or None if there are no language adapters.
  """
  if config.language is None:
    return None
  is_own = language_ids[..., None] == jnp.int32(config.language.language_ids)
  return jnp.where(
    is_own.any(axis=-1), is_own.argmax(axis=-1), is_own.shape[-1]
  )


def _of_language(module, x, languages, weights):
  """up relu(down x) by the weights of each token's language, else 0."""
  # A mixture of experts whose router is the language.
  kernels = {
    "up": weights["down"].astype(x.dtype),
    "down": weights["up"].astype(x.dtype),
  }
  experts = languages[..., None]
  return moe.dropless(
    x,
    experts,
    jnp.ones_like(x[..., :1]),
    kernels,
    nn.relu,
    backend=module.backends.grouped_matmul,
  )


def after_mlp(
  module: nn.Module, x: jax.Array, languages: jax.Array | None
) -> jax.Array:
  """x + language bottleneck, then + task bottleneck, of those that there are.

  Args:
    module: the block, whose backends and collection "adapters" are read.
    x: [B, T, D], what the MLP adds to the residual.
    languages: of `numbers`.
  """
  if module.has_variable("adapters", "language"):
    weights = module.get_variable("adapters", "language")
    x = x + _of_language(module, x, languages, weights)
  if module.has_variable("adapters", "task"):
    weights = module.get_variable("adapters", "task")
    narrow = nn.relu(x @ weights["down"].astype(x.dtype))
    x = x + narrow @ weights["up"].astype(x.dtype)
  return x


def couple(
  module: nn.Module, x: jax.Array, languages: jax.Array | None
) -> jax.Array:
  """The invertible adapter, if there is one.

  With halves x1, x2 of D and bottlenecks f, g of the token's language:
  y1 = x1 + f(x2), y2 = x2 + g(y1).

  Args:
    module: the decoder, whose backends and collection "adapters" are read.
    x: [B, T, D].
    languages: of `numbers`.

  Source: Dinh et al. 2014 (NICE), section 3.2; MAD-X, section 3.4.
  """
  if not module.has_variable("adapters", "invertible"):
    return x
  weights = module.get_variable("adapters", "invertible")
  first, second = jnp.split(x, 2, axis=-1)
  first = first + _of_language(module, second, languages, weights["first"])
  second = second + _of_language(module, first, languages, weights["second"])
  return jnp.concatenate([first, second], axis=-1)


def uncouple(
  module: nn.Module, x: jax.Array, languages: jax.Array | None
) -> jax.Array:
  """The inverse of `couple`."""
  if not module.has_variable("adapters", "invertible"):
    return x
  weights = module.get_variable("adapters", "invertible")
  first, second = jnp.split(x, 2, axis=-1)
  second = second - _of_language(module, first, languages, weights["second"])
  first = first - _of_language(module, second, languages, weights["first"])
  return jnp.concatenate([first, second], axis=-1)
