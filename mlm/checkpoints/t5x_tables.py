"""Tables: t5x's names of our params.

Their kernels are [inputs, outputs] as ours. examples/t5 (T5 1.1, mT5) joins the
heads and names each layer. scalable_t5 (umT5) has the heads apart and a relative
bias in every layer; when it scans, layers are stacked on the second axis. Of our
decoders it has no like: what it trains of them, by `mlm.t5x`, has our names.
"""

import math
from collections.abc import Iterable

from mlm.checkpoints.tables import Layout, Row


def _joined(num_inputs: int) -> Layout:
  """A matrix whose inputs are the first num_inputs dimensions of ours."""
  return Layout(
    read=lambda theirs, shape: [theirs.reshape(shape)],
    write=lambda ours: ours[0].reshape(
      math.prod(ours[0].shape[:num_inputs]), -1
    ),
  )


_SAME = Layout(lambda theirs, shape: [theirs], lambda ours: ours[0])
_STACKED = Layout(
  lambda theirs, shape: [theirs.swapaxes(0, 1)],
  lambda ours: ours[0].swapaxes(0, 1),
)
# Tables of distances: theirs [heads, buckets], [heads, layers, buckets].
_BIAS = Layout(lambda theirs, shape: [theirs.T], lambda ours: ours[0].T)
_STACKED_BIAS = Layout(
  lambda theirs, shape: [theirs.transpose(1, 2, 0)],
  lambda ours: ours[0].transpose(2, 0, 1),
)

# Ours -> theirs and the norm before it.
_ENCODER = (
  ("attention", "attention", "pre_attention_layer_norm"),
  ("mlp", "mlp", "pre_mlp_layer_norm"),
)
_DECODER = (
  ("attention", "self_attention", "pre_self_attention_layer_norm"),
  (
    "cross_attention",
    "encoder_decoder_attention",
    "pre_cross_attention_layer_norm",
  ),
  ("mlp", "mlp", "pre_mlp_layer_norm"),
)
_MLP = (("gate", "wi_0", 1), ("up", "wi_1", 1), ("down", "wo", 1))
_ATTENTION = (
  ("query", "query", 1),
  ("key", "key", 1),
  ("value", "value", 1),
  ("out", "out", 2),
)


def layers_of(stack: str, *, is_scanned: bool) -> str:
  """Name of all layers of "encoder" or "decoder", or with "{}" of one."""
  return f"{stack}/{stack}" if is_scanned else f"{stack}/layers_{{}}"


def _layer_rows(stack: str, *, is_scanned: bool, are_heads_joined: bool):
  theirs = layers_of(stack, is_scanned=is_scanned)
  ours = f"{stack}/layers"
  plain = _STACKED if is_scanned else _SAME
  for name, their_name, norm in _ENCODER if stack == "encoder" else _DECODER:
    yield Row(f"{theirs}/{norm}/scale", (f"{ours}/{name}_norm/scale",), plain)
    for part, their_part, num_inputs in _MLP if name == "mlp" else _ATTENTION:
      yield Row(
        f"{theirs}/{their_name}/{their_part}/kernel",
        (f"{ours}/{name}/{part}",),
        _joined(num_inputs) if are_heads_joined else plain,
      )


def rows(*, is_scanned: bool, relative_bias: str) -> tuple[Row, ...]:
  """The table of a network of theirs.

  Args:
    is_scanned: whether its layers are stacked; only where relative_bias is
      "layer".
    relative_bias: "stack" (examples/t5) or "layer" (scalable_t5).
  """
  is_shared = relative_bias == "stack"
  found = [
    Row("token_embedder/embedding", ("embedding",), _SAME),
    Row("decoder/logits_dense/kernel", ("unembedding",), _SAME),
  ]
  for stack in ("encoder", "decoder"):
    found += _layer_rows(
      stack, is_scanned=is_scanned, are_heads_joined=is_shared
    )
    norm = f"{stack}/{stack}_norm/scale"
    found.append(Row(norm, (f"{stack}/final_norm/scale",), _SAME))
    if is_shared:
      place, ours, layout = stack, stack, _BIAS
    else:
      place = layers_of(stack, is_scanned=is_scanned)
      ours = f"{stack}/layers"
      layout = _STACKED_BIAS if is_scanned else _BIAS
    name = f"{place}/relpos_bias/rel_embedding"
    found.append(Row(name, (f"{ours}/relative_bias",), layout))
  return tuple(found)


def own_rows(paths: Iterable[str]) -> tuple[Row, ...]:
  """The table of a model that has the names and shapes of our params."""
  return tuple(Row(path, (path,), _SAME) for path in paths)
