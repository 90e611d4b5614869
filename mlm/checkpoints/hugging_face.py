"""Models of Hugging Face and ours: configurations and weights, both ways.

By the tables of `hugging_face_tables`. Reading and writing both check that no
name is missing and none is left over.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mlm.checkpoints.hugging_face_tables import FAMILIES, HEAD, Row
from mlm.models import families


def family_of(config: families.Config) -> str:
  """Model type whose fixed fields a configuration has.

  Raises:
    ValueError: if there is none, with what differs from each.
  """
  differences = {}
  for model_type, family in FAMILIES.items():
    if isinstance(config, family.config_class):
      differences[model_type] = {
        name: _get(config, name)
        for name, value in family.fixed.items()
        if _get(config, name) != value
      }
      if not differences[model_type]:
        return model_type
  raise ValueError(
    "no Hugging Face model type has such a configuration; it differs from "
    + "; ".join(
      f"{model_type} in "
      + ", ".join(f"{name} {value!r}" for name, value in differing.items())
      for model_type, differing in differences.items()
    )
  )


def _get(config: Any, name: str) -> Any:
  """The field of a name, or of "field.field"; None within None."""
  for part in name.split("."):
    config = getattr(config, part, None)
  return config


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{"a.b": x} as {"a": {"b": x}}."""
  nested: dict[str, Any] = {}
  for name, value in flat.items():
    outer, _, inner = name.rpartition(".")
    (nested.setdefault(outer, {}) if outer else nested)[inner] = value
  return nested


# Of the routers' losses, where a config.json does not say.
_WEIGHTS = {"router_aux_loss_coef": 0.001, "router_z_loss_coef": 0.0}
# Theirs -> ours, in rope_scaling.
_SCALING = {
  "factor": "factor",
  "low_freq_factor": "low",
  "high_freq_factor": "high",
  "original_max_position_embeddings": "original_length",
}


# What they assume where a config.json does not say.
_TIED = {"llama": False, "mixtral": False, "cohere": True, "bloom": True}


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config.json with the keys that older or newer files leave out."""
  filled = dict(given)
  rope = filled.pop("rope_parameters", None)  # of transformers 5
  if rope is not None:
    filled["rope_theta"] = rope["rope_theta"]
    filled["rope_scaling"] = rope

  def default(key, value):
    if filled.get(key) is None and value is not None:
      filled[key] = value

  for key, other in (
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_embed", "hidden_size"),  # early BLOOM's
  ):
    default(key, filled.get(other))
    default(other, filled.get(key))
  width, num_heads = (
    filled.get("hidden_size"),
    filled.get("num_attention_heads"),
  )
  default("num_key_value_heads", num_heads)
  if width and num_heads:
    default("head_dim", width // num_heads)
  if filled["model_type"] == "bloom" and width:
    default("intermediate_size", 4 * width)
  default("tie_word_embeddings", _TIED.get(filled["model_type"]))
  default("relative_attention_max_distance", 128)
  filled["rope_scaling"] = _scaling(filled.get("rope_scaling"))
  return filled


def _scaling(theirs):
  if theirs is None:
    return None
  kind = theirs.get("rope_type", theirs.get("type"))
  if kind == "default":
    return None
  if kind != "llama3":
    raise ValueError(
      f"rope_type {kind!r}: only 'llama3' and 'default' are here"
    )
  return {ours: theirs[name] for name, ours in _SCALING.items()}


def read_config(
  config_json: Mapping[str, Any], *, activation_dtype: str, remat: str
) -> families.Config:
  """Our configuration of their config.json.

  Args:
    config_json: its contents, of transformers 4 or 5.
    activation_dtype: of ours.
    remat: of ours.

  Raises:
    ValueError: if the model type, or what it is set to, is not here.
  """
  model_type = config_json.get("model_type")
  if model_type not in FAMILIES:
    raise ValueError(
      f"model_type {model_type!r} is not here; known: {', '.join(FAMILIES)}"
    )
  family = FAMILIES[model_type]
  filled = {**_WEIGHTS, **_filled(config_json)}
  for key, needed in family.required.items():
    if filled.get(key, needed) != needed:
      raise ValueError(
        f"{model_type} with {key} {filled[key]!r}: only {needed!r} is here"
      )
  missing = [key for key in family.fields.values() if key not in filled]
  if missing:
    raise ValueError(f"config.json of {model_type} lacks {', '.join(missing)}")
  return family.config_class(
    **_nested(
      {ours: filled[theirs] for ours, theirs in family.fields.items()}
      | family.fixed
    ),
    activation_dtype=activation_dtype,
    remat=remat,
  )


def write_config(config: families.Config) -> dict[str, Any]:
  """Their config.json of our configuration.

  Raises:
    ValueError: if no model type of theirs has such a configuration.
  """
  model_type = family_of(config)
  family = FAMILIES[model_type]
  written = {
    "architectures": [family.architecture],
    "model_type": model_type,
    **family.required,
    **family.written,
    **{theirs: _get(config, ours) for ours, theirs in family.fields.items()},
  }
  if written.get("rope_scaling") is not None:
    scaling = written["rope_scaling"]
    written["rope_scaling"] = {
      "rope_type": "llama3",
      **{theirs: scaling[ours] for theirs, ours in _SCALING.items()},
    }
  if model_type == "bloom":
    # They derive these from the others.
    for key in ("intermediate_size", "num_key_value_heads", "head_dim"):
      value = written.pop(key)
      if value != _filled(written)[key]:
        raise ValueError(
          f"bloom has {key} {_filled(written)[key]}, not {value}"
        )
  return written


def _abstract(config: families.Config) -> Any:
  return jax.eval_shape(families.build(config).init, jax.random.key(0))


def _flat(params: Any) -> dict[str, Any]:
  """{path: leaf} of our params."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
  }


def _tensors(
  config: families.Config,
) -> Iterator[tuple[str, Row, tuple, list]]:
  """(name, row, place in what is stacked, shapes of ours) of their tensors.

  The place is (), (layer,) or (layer, expert).
  """
  paths = _flat(_abstract(config))
  for row in FAMILIES[family_of(config)].rows:
    if row is HEAD and "unembedding" not in paths:
      continue  # tied
    leaves = [paths[path] for path in row.ours]
    depth = row.theirs.count("{}")
    one = [jax.ShapeDtypeStruct(x.shape[depth:], x.dtype) for x in leaves]
    for place in np.ndindex(leaves[0].shape[:depth]):
      yield row.theirs.format(*place), row, place, one


def shapes(config: families.Config) -> dict[str, tuple[int, ...]]:
  """{name: shape} of all their tensors of a configuration."""
  found, of_row = {}, {}
  for name, row, _, ours in _tensors(config):
    if row.theirs not in of_row:  # all layers are alike
      written = jax.eval_shape(lambda *x, row=row: row.layout.write(x), *ours)
      of_row[row.theirs] = written.shape
    found[name] = of_row[row.theirs]
  return found


def _checked(tensors, config: families.Config) -> dict[str, str]:
  """{our spelling: theirs}; raises ValueError unless all fit."""
  family = FAMILIES[family_of(config)]
  expected = shapes(config)
  spelling = {
    name
    if name.startswith(family.prefix) or name in expected
    else family.prefix + name: name
    for name in tensors
  }
  copies = {x: y for x, y in family.copies.items() if x not in expected}
  known = {*expected, *copies, *family.ignored}
  problems = [f"missing {name}" for name in expected if name not in spelling]
  problems += [f"unexpected {x}" for x in spelling if x not in known]
  for name, shape in expected.items():
    if name in spelling and tuple(tensors[spelling[name]].shape) != shape:
      found = list(tensors[spelling[name]].shape)
      problems.append(f"{name} has shape {found}, needed {list(shape)}")
  if not problems:
    for copy, name in copies.items():
      if copy in spelling and not np.array_equal(
        tensors[spelling[copy]], tensors[spelling[name]]
      ):
        problems.append(f"{copy} differs from {name}, which it must repeat")
  if problems:
    raise ValueError(
      "the tensors are not those of the configuration:\n  "
      + "\n  ".join(problems)
      + "\nuse the config.json that lies beside them"
    )
  return spelling


def from_hugging_face(
  config: families.Config, tensors: Mapping[str, np.ndarray], *, shardings: Any
) -> Any:
  """Our params, float32, of their tensors.

  A device asks for its part of a param alone, and of the tensors that part is
  all that is read; so tensors may lie on a disk and be larger than the memory.

  Args:
    config: of `read_config`.
    tensors: name -> array of any float dtype.
    shardings: tree like params of where each is to live.

  Raises:
    ValueError: with a line for every name that is missing or unexpected, and
      every wrong shape.
  """
  spelling = _checked(tensors, config)
  # path -> place -> what it is made of.
  sources: dict[str, dict] = {}
  for name, row, place, leaves in _tensors(config):
    for part, (path, leaf) in enumerate(zip(row.ours, leaves, strict=True)):
      source = (tensors[spelling[name]], row.layout, part, leaf.shape)
      sources.setdefault(path, {})[place] = source

  def one(source, index):
    tensor, layout, part, shape = source
    return np.asarray(layout.read(tensor, shape)[part][index], np.float32)

  def param(path, leaf, sharding):
    of_path = sources[jax.tree_util.keystr(path, simple=True, separator="/")]
    depth = len(next(iter(of_path)))

    def read(index):
      places = [
        range(*stacked.indices(size))
        for stacked, size in zip(index[:depth], leaf.shape)
      ]
      parts = [
        one(of_path[x], index[depth:]) for x in itertools.product(*places)
      ]
      return np.reshape(parts, (*map(len, places), *parts[0].shape))

    return jax.make_array_from_callback(leaf.shape, sharding, read)

  return jax.tree_util.tree_map_with_path(param, _abstract(config), shardings)


def to_hugging_face(
  config: families.Config, params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) of their tensors, one at a time.

  Args:
    config: that the params are of.
    params: ours; one leaf at a time is brought to the host.
  """
  flat = _flat(params)
  for name, row, place, _ in _tensors(config):
    ours = [flat[path][place] if place else flat[path] for path in row.ours]
    yield name, np.ascontiguousarray(row.layout.write([*map(np.asarray, ours)]))
